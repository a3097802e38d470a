"""A trace (:func:`pipelines.lineage.trace.trace`) as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.lineage.trace_record import ServedRow, Trace, TracedRun

__all__ = ["key_text", "lines", "tree"]


def key_text(key: Mapping[str, Any]) -> str:
    """An entity key, or what was asked, in one line."""
    return ", ".join(f"{n}={v}" for n, v in key.items())


def lines(found: Trace) -> list[tuple[int, str]]:
    """The trace as an indented text: (depth, line)."""
    out: list[tuple[int, str]] = []
    asked = key_text(found.asked)
    prediction = found.prediction
    shown = f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)
    out.append((0, f"prediction {shown}: request {found.request}, row {found.row}, answered {_short(found.at)}"))
    out.append((1, f"asked: {asked}, as of {_short(found.as_of)}"))
    v = found.model_version
    if v is not None:
        alias = f", {v['alias_now']} now" if v.get("alias_now") else ""
        gone = "" if v["there"] else "; its folder was deleted"
        out.append((1, f"model {v['model']} version {v['version']}{alias}{gone} ({v['path']})"))
    t = found.training_run
    if t is not None:
        out.append((2, f"training run {t['id']}" + _of_training(t)))
    s = found.training_set
    if s is not None:
        rows = ", ".join(f"{n} {k:,}" for n, k in (s.get("rows") or {}).items())
        state = "" if s["there"] else "; it was deleted"
        state += (
            "; its files are as they were written" if s.get("intact") else "; its files were altered" if s.get("intact") is False else ""
        )
        out.append((3, f"training set {s['id']}: {rows} rows{state} ({s['path']})"))
        query = s.get("query")
        if query:
            out.append(
                (4, f"query: {query['spine']} over {_short(query['start'])} to {_short(query['end'])}, as of {_short(query['as_of'])}")
            )
            read = sorted({r for ids in (query.get("runs") or {}).values() for r in ids})
            if read:
                out.append((4, f"offline rows of {', '.join(read)}"))
    for view in found.views:
        out.append((1, _head(view)))
        for w in view["writers"]:
            by = f"stream {w['name']}{', run ' + w['run'] if w['run'] else ''}" if w["kind"] == "stream" else f"run {w['run']}"
            out.append((2, f"written by {by}, {_short(w['created'])}"))
        g = view["graph"]
        if g is not None:
            more = f", made by {g['made_by']}" if g["made_by"] else ""
            more += ", applied now" if g.get("applied_now") else ", not the applied one now" if "applied_now" in g else ""
            out.append((2, f"graph {g['fingerprint'][:12]}{more}{'' if g['there'] else '; it is gone'}"))
        e = view["events"]
        if e is not None:
            out.append((2, f"events of {e['source']}, {_short(e['from'])} to {_short(e['to'])}"))
            if "topic" in e:
                since = f", events since {_short(e['topic']['since'])}" if e["topic"].get("since") else ""
                out.append((3, f"topic {e['topic']['name']}{since}"))
            out += [(3, f"{f['file']}  sha256 {f['sha256'][:12]}  {f['now']}") for f in e["files"]]
    out += [(1, f"note: {n}") for n in found.notes]
    return out


def _of_training(t: TracedRun) -> str:
    if not t["recorded"]:
        return ": its manifest does not exist (trained before runs were recorded, or removed)"
    code = t["code"]
    scores = ", ".join(f"{n} {v:.4f}" for n, v in t["metrics"].items() if n in ("test/auc", "test/log_loss"))
    commit = f"commit {str(code['commit'])[:12]}{' with changes' if code['dirty'] else ''}" if code.get("commit") else "no commit"
    seeds = key_text({**(t["seeds"] or {}), **(t["params"] or {})})
    return f", {_short(t['created'])}: {scores}; {commit}; {seeds}"


def _head(view: ServedRow) -> str:
    if view["event_timestamp"] is None:
        return f"{view['view']} of {key_text(view['key'])}: {view['status']}"
    stamp = _short(view["event_timestamp"])
    age = f", {view['age']:,.0f} s old" if isinstance(view["age"], (int, float)) else ""
    return f"{view['view']} of {key_text(view['key'])}: row of {stamp}, revision {view['revision']}{age}, {view['status']}"


def _short(text: Any) -> str:
    return "unknown" if not text else str(text)[:19].replace("T", " ")


def tree(found: Trace) -> Any:
    """The trace as a ``rich`` tree."""
    from rich.text import Text
    from rich.tree import Tree

    told = lines(found)
    root = Tree(Text(told[0][1]))
    at = [root]
    for depth, line in told[1:]:
        del at[depth:]
        at.append(at[-1].add(Text(line)))
    return root
