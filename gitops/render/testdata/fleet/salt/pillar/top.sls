base:
  '*':
    - common
  'G@az:az2':
    - az2
  'c1':
    - c1
