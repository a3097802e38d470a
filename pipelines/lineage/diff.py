"""What differs between two runs, by their manifests, in the order that explains most. Pure.

First the causes: inputs (and the question asked), definitions, code, libraries, settings, seeds and parameters, machine. Then the
effects: fingerprints, counts, metrics, outputs. Two runs without a differing cause should have no differing effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.lake.counted import counted

__all__ = ["CAUSES", "EFFECTS", "Difference", "diff", "render", "to_dict"]

CAUSES = ("inputs", "definitions", "code", "libraries", "settings", "parameters", "machine")
EFFECTS = ("fingerprints", "counts", "metrics", "outputs", "status")
_TIMES = ("hop", "over", "delay", "ttl", "label_delay", "max_age")
_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"))


@dataclass(frozen=True)
class Difference:
    """One line: the ``section`` it belongs to, ``what`` differs, and both values (None: not there)."""

    section: str
    what: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        if self.before is None and self.after is None:
            return self.what
        text = _text if self.section in EFFECTS else _plain
        if self.before is None:
            return f"{self.what}: {text(self.after)} only in B"
        if self.after is None:
            return f"{self.what}: {text(self.before)} only in A"
        return f"{self.what}: {text(self.before)} -> {text(self.after)}"


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """All differences between two manifests, ordered by section as in ``CAUSES`` and ``EFFECTS``; [] where there is none."""
    found = [
        *_inputs(a, b),
        *_definitions(a.get("definitions") or {}, b.get("definitions") or {}),
        *_code(a.get("code") or {}, b.get("code") or {}),
        *_libraries(a, b),
        *_flat_diff("settings", a.get("settings") or {}, b.get("settings") or {}),
        *_flat_diff("parameters", a.get("seeds") or {}, b.get("seeds") or {}),
        *_flat_diff("parameters", a.get("params") or {}, b.get("params") or {}),
        *(d for name in ("runner", "pinned") for d in _flat_diff("parameters", _only(a, name), _only(b, name))),
        *(_flat_diff("machine", a.get("machine") or {}, b.get("machine") or {}) if "machine" in a and "machine" in b else ()),
        *_flat_diff("fingerprints", a.get("fingerprints") or {}, b.get("fingerprints") or {}, prefix="graph of "),
        *_flat_diff("counts", a.get("counts") or {}, b.get("counts") or {}),
        *_flat_diff("metrics", a.get("metrics") or {}, b.get("metrics") or {}),
        *_outputs(a, b),
        *_flat_diff("status", _only(a, "status", "error", "blessed"), _only(b, "status", "error", "blessed")),
    ]
    order = {name: i for i, name in enumerate((*CAUSES, *EFFECTS))}
    return sorted(found, key=lambda d: order[d.section])


def to_dict(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The differences for machines: ``{a, b, equal, causes: [...], effects: [...]}``."""
    found = diff(a, b)

    def part(names: Sequence[str]) -> list[dict[str, Any]]:
        return [{"section": d.section, "what": d.what, "a": d.before, "b": d.after, "line": str(d)} for d in found if d.section in names]

    return {"a": a.get("id"), "b": b.get("id"), "equal": not found, "causes": part(CAUSES), "effects": part(EFFECTS)}


def render(a: Mapping[str, Any], b: Mapping[str, Any], most: int = 12) -> list[str]:
    """The differences for people, one line each, at most ``most`` per section."""
    found = diff(a, b)
    kinds = (a.get("kind"), b.get("kind"))
    out = [f"A is a {kinds[0]} run, B a {kinds[1]} run: little can be compared"] if kinds[0] != kinds[1] else []
    if not found:
        return [*out, "nothing differs: inputs, definitions, code, libraries, settings, parameters and results are the same"]
    for name in (*CAUSES, *EFFECTS):
        lines = [str(d) for d in found if d.section == name]
        if lines:
            out += [name, *(f"  {line}" for line in lines[:most])]
            if len(lines) > most:
                out.append(f"  and {len(lines) - most} more (--json has them all)")
    if not any(d.section in CAUSES for d in found):
        out.append("no recorded cause differs: the results differ for reasons outside the manifest (time, hardware, randomness)")
    return out


def _only(m: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {n: m[n] for n in names if n in m}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,64}", value):
        return value[:12]
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _plain(value: Any) -> str:
    """As ``_text``, but a number that is no amount (a seed) keeps its digits together."""
    return str(value) if isinstance(value, int) else _text(value)


def duration(us: int) -> str:
    """Microseconds for people: ``5min``, ``1h``, ``36h``."""
    for size, unit in _UNITS:
        if us and us % size == 0:
            return f"{us // size}{unit}"
    return f"{us}us"


# ------------------------------------------------------------------------------------------------------------------------- inputs


def _inputs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """The question asked, then the files that were read, by log: altered ones by name, those of one run alone by number."""
    for name in ("model", "range", "name", "of_run"):
        if a.get(name) != b.get(name):
            yield Difference("inputs", name, *(_span(m.get(name)) for m in (a, b)))
    query = (a.get("query") or {}, b.get("query") or {})
    for name in ("spine", "features"):
        first, second = query[0].get(name), query[1].get(name)
        if first != second and all(query):
            yield from _members("inputs", name, first, second)
    before, after = a.get("inputs") or {}, b.get("inputs") or {}
    for log in dict.fromkeys([*before, *after]):
        then = {f["file"]: f for f in before.get(log, ())}
        now = {f["file"]: f for f in after.get(log, ())}
        for file in (f for f in then if f in now and then[f]["sha256"] != now[f]["sha256"]):
            sizes = [f"{one[file]['size']:,} bytes {one[file]['sha256'][:12]}" for one in (then, now)]
            yield Difference("inputs", f"{log}: {file} was altered", *sizes)
        gone, new = [f for f in then if f not in now], [f for f in now if f not in then]
        runs = [sorted({p[4:] for f in files for p in f.split("/") if p.startswith("run=")}) for files in (gone, new)]
        if any(runs):
            yield Difference("inputs", f"{log}: rows of other batch runs", *(", ".join(r) or None for r in runs))
            continue
        for files, which in ((gone, "A"), (new, "B")):
            if files:
                some = f"{files[0]}" + (f" to {files[-1]}" if len(files) > 1 else "")
                yield Difference("inputs", f"{log}: {counted(files, 'file')} only in {which}: {some}")
    if all(query) and query[0].get("spine_sha256") != query[1].get("spine_sha256"):
        yield Difference("inputs", "labelled requests (spine)", query[0].get("spine_sha256"), query[1].get("spine_sha256"))


def _span(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(t, str) for t in value):
        return " to ".join(t.removesuffix("+00:00").removesuffix("T00:00:00") for t in value)
    return value


# -------------------------------------------------------------------------------------------------------------------- definitions


def _definitions(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*a, *b]):
        what = name if name.startswith("model ") else f"group {name}"
        if name not in a or name not in b:
            yield Difference("definitions", f"{what} is defined only in {'A' if name in a else 'B'}")
        elif a[name] != b[name]:
            yield from _deep(what, a[name], b[name])


def _deep(what: str, a: Any, b: Any, key: str = "") -> Iterator[Difference]:
    """Where two definitions part, down to the aggregate, field or number that differs."""
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            label = f"{what}: source {(a.get(name) or b.get(name) or {}).get('name', '')}" if name == "source" else f"{what}: {name}"
            yield from _deep(label if name in ("source", *_NAMED) else f"{what}, {name}", a.get(name), b.get(name), name)
    elif key in _NAMED and isinstance(a, list) and isinstance(b, list):
        kind = _NAMED[key]
        first, second = {_name_of(x): x for x in a}, {_name_of(x): x for x in b}
        base = what.rpartition(":")[0]
        for name in dict.fromkeys([*first, *second]):
            if name not in first or name not in second:
                yield Difference("definitions", f"{base}: {kind} {name} is there only in {'A' if name in first else 'B'}")
            else:
                yield from _deep(f"{base}: {kind} {name}", first[name], second[name])
        if list(first) != list(second) and set(first) == set(second):
            yield Difference("definitions", f"{base}: {kind}s are in another order")
    else:
        yield Difference("definitions", what, _value(key, a), _value(key, b))


_NAMED = {"aggregates": "aggregate", "fields": "field", "request_fields": "request field"}


def _name_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name"))
    return str(value[0]) if isinstance(value, list) and value else str(value)


def _value(key: str, value: Any) -> Any:
    if key in _TIMES and isinstance(value, int):
        return duration(value)
    if key in _TIMES and isinstance(value, list) and all(isinstance(v, int) for v in value):
        return ", ".join(duration(v) for v in value)
    return "none" if value is None else value


def _members(section: str, what: str, a: Any, b: Any) -> Iterator[Difference]:
    if isinstance(a, list) and isinstance(b, list):
        gone, new = [x for x in a if x not in b], [x for x in b if x not in a]
        if gone or new:
            yield Difference(section, what, ", ".join(map(str, gone)) or None, ", ".join(map(str, new)) or None)
        else:
            yield Difference(section, f"{what} are in another order")
    else:
        yield Difference(section, what, a, b)


# -------------------------------------------------------------------------------------------------------------- code and the rest


def _code(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    if a.get("sha256") == b.get("sha256"):
        return
    before, after = a.get("files") or {}, b.get("files") or {}
    changed = sorted(f for f in {*before, *after} if before.get(f) != after.get(f)) if before and after else []
    # The repository's own files are the likelier reason, and few.
    for file in sorted(changed, key=lambda f: (not f.startswith("repo/"), f)):
        how = "changed" if file in before and file in after else f"there only in {'A' if file in before else 'B'}"
        yield Difference("code", f"{file} {how}")
    then, now = (dict(c.get("value_files") or {}) for c in (a, b))
    if then and now:
        weighs = sorted(f for f in {*then, *now} if then.get(f) != now.get(f))
        yield Difference("code", f"can change feature values: {', '.join(weighs) or 'none of this'}")
    for what, (x, y) in {"commit": (a, b), "engine": tuple(c.get("engine") or {} for c in (a, b))}.items():
        told = [_version(c) for c in (x, y)]
        if told[0] != told[1]:
            yield Difference("code", what, *told)


def _version(code: Mapping[str, Any]) -> str:
    words = [code.get("version"), str(code.get("commit", "unknown"))[:12], "with changes not committed" if code.get("dirty") else None]
    return " ".join(str(w) for w in words if w)


def _libraries(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    yield from _flat_diff("libraries", a.get("versions") or {}, b.get("versions") or {})
    if a.get("lock") != b.get("lock") and "lock" in a and "lock" in b:
        yield Difference("libraries", "requirements.lock", a.get("lock"), b.get("lock"))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _flat_diff(section: str, a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    before, after = dict(_flat(a)) if a else {}, dict(_flat(b)) if b else {}
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after or before[name] != after[name]:
            yield Difference(section, f"{prefix}{name}", *(_shown(m, name) for m in (before, after)))


def _shown(values: Mapping[str, Any], name: str) -> Any:
    return None if name not in values else "none" if values[name] is None else values[name]


def _outputs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = ({_artifact(o["name"]): o for o in m.get("outputs") or ()} for m in (a, b))
    both = [n for n in before if n in after]
    other = [n for n in both if before[n]["sha256"] != after[n]["sha256"]]
    for name in other:
        yield Difference("outputs", name, before[name]["sha256"], after[name]["sha256"])
    for one, two, which in ((before, after, "A"), (after, before, "B")):
        alone = [n for n in one if n not in two]
        if alone and one and two:
            yield Difference("outputs", f"{counted(alone, 'file')} only in {which}: {', '.join(alone[:3])}")
        elif alone:
            yield Difference("outputs", f"{counted(alone, 'file')} only in {which}")


def _artifact(name: str) -> str:
    return re.sub(r"run=[^/]+/", "", name)
