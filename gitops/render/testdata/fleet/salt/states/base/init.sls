/etc/kubernetes/addons/base/namespace.yaml:
  file.managed:
    - source: salt://base/files/namespace.yaml
