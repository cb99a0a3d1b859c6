/etc/kubernetes/addons/crds/namespace.yaml:
  file.managed:
    - source: salt://crds/files/namespace.yaml

{% for kind in ['addonstatuses', 'computenodes', 'nodeflavors', 'remediationpolicies', 'remediations'] %}
/etc/kubernetes/addons/crds/holdfast.dev_{{ kind }}.yaml:
  file.managed:
    - source: salt://crds/files/holdfast.dev_{{ kind }}.yaml
{% endfor %}
