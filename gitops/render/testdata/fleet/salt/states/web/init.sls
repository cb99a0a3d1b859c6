#!jinja|yaml
{% set dir = '/etc/kubernetes/addons/web/' %}
{{ dir }}deployment.yaml:
  file.managed:
    - source: salt://web/files/deployment.yaml.jinja
    - template: jinja
    - context:
        port: 8080
{% if salt['pillar.get']('web:zones') %}
{{ dir }}zones.yaml:
  file.managed:
    - source: salt://web/files/zones.yaml.jinja
    - template: jinja
{% endif %}
