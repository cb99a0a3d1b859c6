web:
  interval: 10s
  extra: {a: 1}
site: {name: example}
