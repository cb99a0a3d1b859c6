# Values for every cluster. What can be set, and its default, is in
# addons/<name>/addon.yaml.
disk-monitor:
  scanInterval: 30s
  # What disks a node with the label holdfast.dev/flavor=database must have.
  flavors:
    database:
    - {name: data, role: static, count: 2}
