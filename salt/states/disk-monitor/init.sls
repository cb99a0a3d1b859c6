/etc/kubernetes/addons/disk-monitor/rbac.yaml:
  file.managed:
    - source: salt://disk-monitor/files/rbac.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/disk-monitor/admission-policy.yaml:
  file.managed:
    - source: salt://disk-monitor/files/admission-policy.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/disk-monitor/flavors.yaml:
  file.managed:
    - source: salt://disk-monitor/files/flavors.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/disk-monitor/daemonset.yaml:
  file.managed:
    - source: salt://disk-monitor/files/daemonset.yaml.jinja
    - template: jinja
