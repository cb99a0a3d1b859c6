/etc/kubernetes/addons/local-volume-provisioner/rbac.yaml:
  file.managed:
    - source: salt://local-volume-provisioner/files/rbac.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/local-volume-provisioner/admission-policy.yaml:
  file.managed:
    - source: salt://local-volume-provisioner/files/admission-policy.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/local-volume-provisioner/storage-classes.yaml:
  file.managed:
    - source: salt://local-volume-provisioner/files/storage-classes.yaml.jinja
    - template: jinja

/etc/kubernetes/addons/local-volume-provisioner/daemonset.yaml:
  file.managed:
    - source: salt://local-volume-provisioner/files/daemonset.yaml.jinja
    - template: jinja

{% if '"Delete"' in (salt['pillar.get']('local-volume-provisioner:storageClasses') | json) %}
/etc/kubernetes/addons/local-volume-provisioner/cleaner.yaml:
  file.managed:
    - source: salt://local-volume-provisioner/files/cleaner.yaml.jinja
    - template: jinja
{% endif %}
