#!/bin/sh
# Renders one formula tree with Salt and with holdfast, and compares: formula.sh PYTHON HOLDFAST DIR [MINION [GRAINS]]
set -eu
python=$1 holdfast=$2 dir=$3 minion=${4:-minion} grains=${5:-}
here=$(dirname "$0")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
states=$dir pillar=
for d in "$dir/states" "$dir/salt/states"; do [ -d "$d" ] && states=$d; done
for d in "$dir/pillar" "$dir/salt/pillar"; do [ -d "$d" ] && pillar=$d; done
"$python" "$here/record.py" --tree "$dir" --states "$states" ${pillar:+--pillar "$pillar"} --minion "$minion" ${grains:+--grains "$grains"} >"$out/salt.json"
"$holdfast" salt render --root "$dir" --minion "$minion" ${grains:+--grains "$grains"} >"$out/holdfast.json" 2>"$out/error" || cat "$out/error"
"$python" - "$out/salt.json" "$out/holdfast.json" <<'PY'
import json, sys
salt = json.load(open(sys.argv[1]))
text = open(sys.argv[2]).read()
if "error" in salt or not text:
    print("salt:", salt.get("error", "renders"), salt.get("text", ""), "| holdfast:", "renders" if text else "fails")
    sys.exit(("error" in salt) == bool(text))
ours, bad = json.loads(text), 0
for key in ("pillar", "low", "files"):
    a, b = salt[key], ours[key]
    if key == "files":  # the folders on the way are Salt's scratch folder's
        a = {k: v for k, v in a.items() if "text" in v}
        b = {k: v for k, v in b.items() if "text" in v}
    if a != b:
        bad = 1
        print(key, "differs\n  salt:     ", json.dumps(a, sort_keys=True), "\n  holdfast: ", json.dumps(b, sort_keys=True))
print("the same" if not bad else "not the same")
sys.exit(bad)
PY
