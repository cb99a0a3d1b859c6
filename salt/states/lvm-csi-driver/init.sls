{% for file in ['rbac', 'admission-policy', 'csi-driver', 'storage-classes', 'daemonset'] -%}
/etc/kubernetes/addons/lvm-csi-driver/{{ file }}.yaml:
  file.managed:
    - source: salt://lvm-csi-driver/files/{{ file }}.yaml.jinja
    - template: jinja

{% endfor -%}
