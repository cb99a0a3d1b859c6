#!/usr/bin/env python3
"""Records what Salt itself makes of the cases in this folder.

    record.py [--check] [--tree DIR --minion ID [--grains FILE]] [ARCHIVE...]

Needs a Python with salt installed (pip install salt). Without arguments all
archives below templates/ and trees/ are rendered and NAME.json is written beside
each NAME.txt. With --tree one tree is rendered, and its result printed.

An archive is a txtar file. In templates/, members below states/ are a file
tree, context.yaml are the names that templates see, and every other member is a
case: NAME.jinja is one template, each line of NAME.lines is one. In trees/,
members CASE/... are a case each: CASE/states, CASE/pillar, CASE/grains.yaml,
CASE/opts.yaml (Salt's configuration).

A result is {"text": ...}, {"pillar": ..., "low": [...], "files": {...}} or
{"error": class, "line": n}; line is left out where Salt tells none.
"""
import argparse
import io
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping

logging.disable(logging.CRITICAL)

import salt.client  # noqa: E402
import salt.config  # noqa: E402
import salt.exceptions  # noqa: E402
import salt.loader  # noqa: E402
import salt.minion  # noqa: E402
import salt.state  # noqa: E402
import salt.utils.yaml  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
GRAINS = {"id": "az1-c1", "cluster": "az1-c1", "az": "az1", "kubernetes": "1.36", "tier": "prod", "os": "Debian", "os_family": "Debian",
          "osmajorrelease": 12, "roles": ["storage", "db"], "ipv4": ["10.1.2.3", "127.0.0.1"], "nested": {"a": {"b": "c"}, "l": [1, 2]}}
PILLAR = {"app": {"name": "web", "port": 8080, "on": True, "none": None, "list": [1, "two", 3.5], "sub": {"b": 1, "a": 2}}, "text": "words", "empty": {}, "zero": 0}
MARKER = re.compile(r"^-- (.+) --$")


def archive(path):
    members, name, lines = {}, None, []
    with open(path, encoding="utf-8", newline="") as f:
        for line in f:
            m = MARKER.match(line.rstrip("\n"))
            if m:
                if name is not None:
                    members[name] = "".join(lines)
                name, lines = m.group(1), []
            else:
                lines.append(line)
    if name is not None:
        members[name] = "".join(lines)
    return members


def plain(v):
    """A value as JSON has it. What JSON lacks is marked."""
    if isinstance(v, Mapping):
        if all(isinstance(k, str) for k in v):
            return {str(k): plain(v[k]) for k in v}
        return {"__pairs__": [[plain(k), plain(v[k])] for k in v]}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, (set, frozenset)):
        return {"__set__": sorted((plain(x) for x in v), key=repr)}
    if isinstance(v, bytes):
        return {"__bytes__": v.hex()}
    if isinstance(v, str):
        return str(v)
    if isinstance(v, float) and not v == v or v in (float("inf"), float("-inf")):
        return {"__float__": repr(v)}
    return v


class Salt:
    """One minion whose trees are below a scratch folder."""

    def __init__(self, root, grains, opts, states=None, pillar_root=None, pillar=None):
        conf = os.path.join(root, "minion")
        with open(conf, "w", encoding="utf-8") as f:
            json.dump({
                "id": grains["id"], "root_dir": root, "file_client": "local", "cachedir": os.path.join(root, "cache"), "log_level": "quiet",
                "file_roots": {"base": [states or os.path.join(root, "states")]}, "pillar_roots": {"base": [pillar_root or os.path.join(root, "pillar")]},
                "fileserver_backend": ["roots"], "grains": grains, "enable_legacy_startup_events": False, "pki_dir": os.path.join(root, "pki"),
                "fileserver_followsymlinks": True, "disable_grains": [], "file_ignore_regex": [], "file_ignore_glob": [], **opts,
            }, f)
        self.root = root
        self.opts = salt.config.minion_config(conf, cache_minion_id=False)
        self.opts["grains"] = dict(grains)
        self.opts["file_client"] = "local"
        self.opts["pillar"] = pillar if pillar is not None else salt.pillar.get_pillar(self.opts, self.opts["grains"], self.opts["id"]).compile_pillar()
        self.opts["caller"] = True
        self.utils = salt.loader.utils(self.opts)
        self.functions = salt.loader.minion_mods(self.opts, utils=self.utils)
        self.rend = salt.loader.render(self.opts, self.functions)

    def template(self, text, context):
        out = self.rend["jinja"](io.StringIO(text, newline=""), "base", "", context=context, tmplpath=None)
        return out.read() if hasattr(out, "read") else out

    def files(self, low, folders=False):
        """Runs the file states of a low state into a scratch folder. folders: make what they need."""
        out = os.path.join(self.root, "out")
        os.makedirs(out)
        state = salt.state.State(dict(self.opts, test=False), pillar_override=None, initial_pillar=self.opts["pillar"])
        for chunk in low:
            if chunk["state"] != "file":
                continue
            chunk = dict(chunk)
            for key in ("name", "target"):
                if isinstance(chunk.get(key), str) and chunk[key].startswith("/") and not (key == "target" and chunk["fun"] == "symlink"):
                    chunk[key] = out + chunk[key]
            if folders:
                os.makedirs(os.path.dirname(chunk["name"]), exist_ok=True)
            for key in ("require", "watch", "onchanges", "prereq", "require_any", "listen", "unless", "onlyif"):
                chunk.pop(key, None)
            ret = state.call(chunk)
            if ret["result"] is not True:
                raise salt.exceptions.CommandExecutionError(f"{chunk['__id__']}: {ret['comment']}".replace(out, ""))
        found = {}
        for top, dirs, names in os.walk(out):
            for name in dirs + names:
                path = os.path.join(top, name)
                key, info = path[len(out):], os.lstat(path)
                if stat.S_ISLNK(info.st_mode):
                    found[key] = {"target": os.readlink(path)}
                elif stat.S_ISDIR(info.st_mode):
                    found[key] = {"dir": True, "mode": oct(info.st_mode & 0o7777)[2:]}
                else:
                    with open(path, "rb") as f:
                        data = f.read()
                    try:
                        found[key] = {"text": data.decode(), "mode": oct(info.st_mode & 0o7777)[2:]}
                    except UnicodeDecodeError:
                        found[key] = {"bytes": data.hex(), "mode": oct(info.st_mode & 0o7777)[2:]}
        return found


def failure(exc):
    out = {"error": type(exc).__name__}
    text = str(exc)
    m = re.search(r"; line (\d+)", text) or re.search(r'line (\d+), column', text)
    if getattr(exc, "line_num", None):
        out["line"] = exc.line_num
    elif m:
        out["line"] = int(m.group(1))
    out["text"] = re.sub(r"/tmp/[^\s'\"]*", "", text.strip().split("\n")[0])[:200]
    return out


def write_tree(root, members):
    for name, text in members.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write(text)


def yaml_of(members, name):
    return salt.utils.yaml.safe_load(members[name]) or {} if name in members else {}


def run_templates(members):
    root = tempfile.mkdtemp(prefix="fidelity")
    results = {}
    try:
        write_tree(root, {n: t for n, t in members.items() if n.startswith("states/")})
        os.makedirs(os.path.join(root, "states"), exist_ok=True)
        os.makedirs(os.path.join(root, "pillar"), exist_ok=True)
        s = Salt(root, GRAINS, yaml_of(members, "opts.yaml"), pillar=salt.utils.yaml.safe_load(json.dumps(PILLAR)))
        for name, text in members.items():
            cases = {name: text} if name.endswith(".jinja") and not name.startswith("states/") else {}
            if name.endswith(".lines"):
                cases = {f"{name}: {line}": line for line in text.split("\n") if line and not line.startswith("##")}
            for case, template in cases.items():
                try:
                    results[case] = {"text": s.template(template, yaml_of(members, "context.yaml"))}
                except Exception as exc:  # every kind of fault counts as one
                    results[case] = failure(exc)
    finally:
        shutil.rmtree(root)
    return results


def run_tree(root, members, states=None, pillar=None):
    try:
        grains = {**GRAINS, **yaml_of(members, "grains.yaml")}
        s = Salt(root, grains, yaml_of(members, "opts.yaml"), states, pillar)
        found = s.opts["pillar"]
        if "_errors" in found:
            raise salt.exceptions.SaltRenderError("; ".join(map(str, found["_errors"])))
        result = {"pillar": plain(found)}
        low = s.functions["state.show_lowstate"]()
        if low and not isinstance(low[0], Mapping):
            raise salt.exceptions.SaltRenderError("; ".join(map(str, low)))
        result["low"] = plain(low)
        result["files"] = s.files(low, states is not None)
        return result
    except Exception as exc:  # every kind of fault counts as one
        return failure(exc)


def run_trees(members):
    cases = {}
    for name, text in members.items():
        case, _, path = name.partition("/")
        cases.setdefault(case, {})[path] = text
    results = {}
    for case, files in cases.items():
        root = tempfile.mkdtemp(prefix="fidelity")
        try:
            os.makedirs(os.path.join(root, "pillar"))
            os.makedirs(os.path.join(root, "states"))
            write_tree(root, files)
            results[case] = run_tree(root, files)
        finally:
            shutil.rmtree(root)
    return results


def dump(v):
    return json.dumps(v, indent=1, ensure_ascii=False) + "\n"


def names():
    """The filters, tests and globals that Salt's Jinja environment has."""
    import jinja2.defaults
    import jinja2.filters
    import jinja2.tests
    from salt.utils.decorators.jinja import JinjaFilter, JinjaGlobal, JinjaTest
    serial = ["yaml", "json", "xml", "python", "load_yaml", "load_json", "load_text", "dict_to_sls_yaml_params", "combinations",
              "combinations_with_replacement", "compress", "permutations", "product", "zip", "zip_longest"]
    return {"filters": sorted({*jinja2.filters.FILTERS, *JinjaFilter.salt_jinja_filters, *serial}), "tests": sorted({*jinja2.tests.TESTS, *JinjaTest.salt_jinja_tests, "list"}),
            "globals": sorted({*jinja2.defaults.DEFAULT_NAMESPACE, *JinjaGlobal.salt_jinja_globals, "odict", "show_full_context"}), "salt": salt.version.__version__, "jinja2": __import__("jinja2").__version__}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--check", action="store_true", help="print the results as one JSON object, write nothing")
    p.add_argument("--tree")
    p.add_argument("--states")
    p.add_argument("--pillar")
    p.add_argument("--minion", default="az1-c1")
    p.add_argument("--grains")
    p.add_argument("archives", nargs="*")
    args = p.parse_args()
    if args.tree:
        root = tempfile.mkdtemp(prefix="fidelity")
        grains = {"id": args.minion}
        if args.grains:
            with open(args.grains, encoding="utf-8") as f:
                grains.update(salt.utils.yaml.safe_load(f))
        empty = os.path.join(root, "pillar")
        os.makedirs(empty)
        GRAINS.clear()
        GRAINS.update(grains, id=args.minion)
        try:
            print(dump(run_tree(root, {}, args.states or args.tree, args.pillar or empty)))
        finally:
            shutil.rmtree(root)
        return
    all_results = {}
    paths = args.archives or sorted(os.path.join(HERE, d, n) for d in ("templates", "trees") for n in os.listdir(os.path.join(HERE, d)) if n.endswith(".txt"))
    for path in paths:
        members = archive(path)
        results = run_templates(members) if os.path.basename(os.path.dirname(path)) == "templates" else run_trees(members)
        all_results[os.path.relpath(path, HERE)] = results
        if not args.check:
            with open(path[:-4] + ".json", "w", encoding="utf-8") as f:
                f.write(dump(results))
    if args.check:
        print(dump(all_results))
    elif not args.archives:
        with open(os.path.join(HERE, "names.json"), "w", encoding="utf-8") as f:
            f.write(dump(names()))


main()
