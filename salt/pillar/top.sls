# Which values each cluster gets; later files win. A line such as
#   'G@az:az2': [az2]
# adds pillar/az2.sls for the clusters of one zone.
base:
  '*':
    - common
