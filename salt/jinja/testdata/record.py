#!/usr/bin/env python3
"""Records what Jinja2 itself renders for the corpus: record.py > corpus.json

Needs jinja2 >= 3.1. The environment is Salt's: undefined names are
errors, nothing is trimmed, a last newline is taken off before and put back after
(salt/utils/templates.py, render_jinja_tmpl); json is Salt's filter
(salt/utils/jinja.py, SerializerExtension).
"""
import json
import jinja2

NAMES = {
    "n": 3, "f": 2.5, "s": "str", "t": True, "none": None, "multi": "a\nb\n\nc", "e": "",
    "l": [1, "two", 3.0], "d": {"b": 1, "a": {"x": "y", "z": [1, 2]}}, "users": [{"name": "a", "on": True}, {"name": "b", "on": False}],
}

TEMPLATES = [
    "plain\n", "", "\n\n", "{{ n }}", "a{{ n }}b\n", "{{ f }}|{{ s }}|{{ t }}|{{ not t }}",
    "{{ 'its' if false else \"q\" }}", "{{ 'a\\nb\\t\\\\c\\'' }}", "{{ 1.0 }} {{ 100000000000000000.0 }} {{ 0.00001 }} {{ 0.1 + 0.2 }} {{ 3.0 * 2 }}",
    "{{ n + 1 }} {{ n - 5 }} {{ n * 2 }} {{ n / 2 }} {{ n // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -n }} {{ +n }}",
    "{{ s ~ n ~ t }}", "{{ 'a' + 'b' }}", "{{ 1 + 2 * 3 - 4 }}", "{{ (1 + 2) * 3 }}", "{{ 'x' ~ 1 + 2 }}", "{{ 2 * 'x'|length ~ 3 }}",
    "{{ n == 3 }} {{ n != 3 }} {{ n < 4 }} {{ n >= 4 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == false }}",
    "{{ 'a' in d }} {{ 'zz' not in d }} {{ 1 in l }} {{ 'tr' in s }} {{ 5 in (1, 5) }} {{ not 1 in l }}",
    "{{ t and s }} {{ e or 'x' }} {{ e and 'x' }}| {{ not e }} {{ not not s }} {{ 1 and 2 or 3 }}",
    "{{ 'y' if t }}", "{{ ('y' if not t else 'n') ~ '!' }}", "{{ 'a' if e else 'b' if t else 'c' }}",
    "{{ zz|default('q') }} {{ zz|d('q') }} {{ d.zz|default(1) }} {{ d['zz']|default('k') }} {{ e|default('x') }} {{ e|default('x', true) }} {{ s|default('x', boolean=true) }}",
    "{{ s|upper }} {{ 'ABC'|lower }} {{ n|upper }} {{ s|replace('t', 'T') }} {{ '  x '|trim }}| {{ '12'|int + 1 }} {{ l|length }} {{ d|length }} {{ s|length }}",
    "{{ l|join(',') }} {{ l|join }} {{ ['a', 'b']|join(d='-') }}", "{{ multi|indent(2) }}", "{{ multi|indent }}", "{{ multi|indent(2, true) }}", "{{ multi|indent(width=1, first=true, blank=true) }}",
    "{{ d|json }}", "{{ l|json }} {{ s|json }} {{ 'a\"b\\n\\\\<&>é' |json }} {{ none|json }} {{ t|json }}", "{{ [[], {}]|json }}",
    "{{ d.a.x }} {{ d['a']['x'] }} {{ d.a['z'][1] }} {{ l[-1] }} {{ l[0] }} {{ d.get('b') }} {{ d.get('q', 7) }} {{ d.a.get('x', 1) }}",
    "{% if t %}yes{% endif %}", "{% if e %}a{% elif n == 3 %}b{% else %}c{% endif %}", "{% if e %}a{% elif not t %}b{% else %}c{% endif %}\n",
    "{% for x in l %}{{ x }},{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v|json }};{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}", "{% for u in users if u.on %}{{ u.name }}{% endfor %}", "{% for u in users if not u.on %}{{ loop.index }}{{ u.name }}{% else %}-{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for k in d.keys() %}{{ k }}{% endfor %}{% for v in d.a.values() %}{{ v|json }}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [3, 4] %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% set q = 1 %}{{ q }}", "{% set q = 1 %}{% for i in [1] %}{% set q = 2 %}{{ q }}{% endfor %}{{ q }}", "{% set q = 1 %}{% if t %}{% set q = 2 %}{% endif %}{{ q }}", "{% set q = [1, {'a': 2}] %}{{ q[1].a }}",
    "a {#- comment -#} b", "a\n{# comment #}\nb", "a  {%- if t %}  b  {%- endif -%}  c", "a\n  {{- n -}}  \n b", "x {%+ if t %}y{% endif +%} z", "{{- n }}", "a {{- -1 }}",
    "{% raw %}{{ n }} {% if %}{% endraw %}", "a {%- raw -%}  {{ x }}  {%- endraw -%} b", "{{ '{{' }} {{ '}}' }} {{ {'a': {'b': 1}}.a.b }}", "{{\n  n\n  + 1 }}\n", "{%\n if t\n%}x{%\nendif %}",
    "{ { n } } {n} %} }}", "{{ s.upper() }} {{ s.startswith('s') }} {{ s.endswith('x') }} {{ 'a,b'.split(',')|json }} {{ s.replace('s', 'S') }} {{ 'A'.lower() }}",
    "{{ n is defined }} {{ zz is defined }} {{ zz is not defined }} {{ zz is undefined }} {{ none is none }} {{ s is string }} {{ n is number }} {{ d is mapping }} {{ l is sequence }} {{ t is boolean }} {{ s is not number }} {{ d.q is defined }}",
    "{{ n is defined and s is string }}", "{{ not n is none }}", "{{ -n|int }}", "{{ l + [4] == [1, 'two', 3.0, 4] }}", "{{ {'b': 1, 'a': 2} == {'a': 2, 'b': 1} }}", "{{ [1,] == [1] }} {{ {} == {} }} {{ {'a': 1,}|json }}",
    "l1\r\nl2 {{ n }}\r\n", "a\n{% if t -%}\nb\n{% endif -%}\n", "a\n{{ n -}}\n\n", "{% if e %}{% endif %}\n", "é {{ 'ü' }} 日本\n", "{% for x in 'ab'.split(',') %}{{ x }}{% endfor %}", "{{ d.items()|length }}",
    "{{ zz }}", "{{ d.zz }}", "{{ d.zz.q }}", "{{ l[9] }}", "{{ zz + 1 }}", "{{ not zz }}", "{% if zz %}{% endif %}", "{% for x in zz %}{% endfor %}", "{{ zz == 1 }}", "{{ s + 1 }}", "{{ n + s }}", "{{ n < s }}", "{{ 1 // 0 }}", "{{ 1 / 0 }}", "{{ n() }}", "{{ d.get() }}",
    "{{ }}", "{{ n", "{% if t %}", "{% endif %}", "{% if %}{% endif %}", "{% for x l %}{% endfor %}", "{% bogus %}", "{{ n|bogus }}", "{{ n is bogus }}", "{{ 'abc }}", "{{ (n }}", "{{ n) }}", "{# open", "{% raw %}x", "{{ n; }}", "{{ n @ 2 }}", "{{ d.get('a' 'b' }}", "{% else %}", "{% if t %}{% endfor %}", "{{ a b }}", "{{ f(1, a=2, 3) }}",
]


def main():
    env = jinja2.Environment(undefined=jinja2.StrictUndefined)
    env.filters["json"] = lambda v: json.dumps(v, sort_keys=True, ensure_ascii=False).strip()
    cases = []
    for src in TEMPLATES:
        case = {"template": src}
        try:
            case["output"] = env.from_string(src).render(NAMES) + ("\n" if src.endswith("\n") else "")
        except Exception as e:  # every kind of fault counts as one
            case["error"] = type(e).__name__
        cases.append(case)
    print(json.dumps({"names": NAMES, "cases": cases}, indent=1, ensure_ascii=False))


main()
