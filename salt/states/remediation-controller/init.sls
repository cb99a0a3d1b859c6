/etc/kubernetes/addons/remediation-controller/rbac.yaml:
  file.managed:
    - source: salt://remediation-controller/files/rbac.yaml

/etc/kubernetes/addons/remediation-controller/admission-policy.yaml:
  file.managed:
    - source: salt://remediation-controller/files/admission-policy.yaml

/etc/kubernetes/addons/remediation-controller/deployment.yaml:
  file.managed:
    - source: salt://remediation-controller/files/deployment.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/remediation-controller/policy.yaml:
  file.managed:
    - source: salt://remediation-controller/files/policy.yaml.jinja
    - template: jinja
