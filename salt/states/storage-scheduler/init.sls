/etc/kubernetes/addons/storage-scheduler/rbac.yaml:
  file.managed:
    - source: salt://storage-scheduler/files/rbac.yaml

/etc/kubernetes/addons/storage-scheduler/config.yaml:
  file.managed:
    - source: salt://storage-scheduler/files/config.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/storage-scheduler/deployment.yaml:
  file.managed:
    - source: salt://storage-scheduler/files/deployment.yaml.jinja
    - template: jinja
