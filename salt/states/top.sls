# Which states each cluster gets. A state is an addon; it needs addons/<name>/addon.yaml.
base:
  '*':
    - crds
    - local-volume-provisioner
    - disk-monitor
    - remediation-controller
