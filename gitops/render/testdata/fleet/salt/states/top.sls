base:
  '*':
    - base
    - web
