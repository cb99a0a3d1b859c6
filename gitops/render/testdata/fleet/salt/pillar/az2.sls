web:
  zones: [{{ grains['az'] }}, az3]
