web:
  replicas: 3
  extra: {b: "yes"}
