# Values for every cluster. What can be set, and its default, is in
# addons/<name>/addon.yaml.
disk-monitor:
  scanInterval: 5s
