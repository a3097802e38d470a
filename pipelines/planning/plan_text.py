"""A plan as people read it, and as machines do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.lake.counted import counted
from pipelines.planning.event_inputs import EventInputs
from pipelines.planning.group_plan import Judged
from pipelines.planning.model_changes import ModelChange
from pipelines.planning.plan_parts import SAME, BatchPlan, Expected, GroupPlan, ModelPlan, Plan
from pipelines.planning.topic_plan import TopicPlan

__all__ = ["FORMAT", "lines", "summary", "to_dict"]

FORMAT = 1
"""The format of :func:`to_dict`; rises when a field changes its meaning."""


def lines(plan: Plan, options: str = "") -> Iterator[str]:
    """Line by line, the summary last. ``options``: what each command to run is given besides, such as ``--repo shop``."""
    if plan.also:
        named, now = ", ".join(plan.also), "it is" if len(plan.also) == 1 else "they are"
        yield f"apply takes all groups, and would refuse {named} as {now} now: planned here too"
        yield ""
    for g in plan.groups:
        yield from _group(g)
    for b in plan.batches:
        yield from _batch(b)
    yield from _block("Online store", (f"{g.name}: {_keys(g)}" for g in plan.groups if g.keys is not None or g.sign == "-"))
    yield from _block("Topics", (line for t in plan.topics for line in _topic(t)))
    yield from _block(
        "Streams", (f"{'~' if words else '='} {s.name}{_now(s.running)}: {words or 'continues'}" for s, words in plan.streams)
    )
    yield from _block("Models", [*map(_model, plan.models), *(line for c in plan.redefined for line in _redefined(c))])
    if plan.training_sets:
        some = ", ".join(s.id for s in plan.training_sets[:3]) + (", .." if len(plan.training_sets) > 3 else "")
        yield from _block("Training sets", [f"{len(plan.training_sets)} of graphs that go: {some}"])
    if plan.feast is None:
        yield from _block("Feast", ["its registry cannot be read here; run 'feast plan' in the repository to see what apply changes"])
    else:
        found = [f"{c.sign} {c.kind} {c.name}{f': {c.words}' if c.words else ''}" for c in plan.feast]
        if plan.registry_damaged:
            found.insert(0, f"{plan.registry_damaged} is damaged: it is set aside and made anew")
        yield from _block("Feast, on apply", found)
    yield from _block("To run, in this order", (f"{command} {options}".rstrip() for command in plan.commands))
    yield summary(plan)


def summary(plan: Plan) -> str:
    """The one line at the end."""
    unread = sum(bool(t.wrong) for t in plan.topics)
    also = f" {counted(unread, 'topic')} cannot be read as defined." if unread else ""
    if not plan.changes:
        return f"No changes: rows, graphs and the registry match the definitions.{also}"
    counts = f"Plan: {plan.count('+')} to add, {plan.count('~')} to change, {plan.count('-')} to remove"
    made = [g.name for g in plan.groups if g.recomputed]
    out = f"{counts}; {counted(made, 'group')} recomputed" if made else f"{counts}; nothing is recomputed"
    for sure, verb in ((True, "no longer fit"), (False, "perhaps no longer fit")):
        n = len({(m.version.model, m.version.version) for m in plan.models if m.in_use and m.sure is sure})
        if n:
            out += f"; {counted(n, 'model')} in use {verb if n > 1 else verb.replace('fit', 'fits')}"
    n = sum(bool(c.changes) for c in plan.redefined)
    return f"{out}; {counted(n, 'model')} redefined.{also}" if n else f"{out}.{also}"


def _block(title: str, found: Any) -> Iterator[str]:
    body = list(found)
    if body:
        yield f"{title}:"
        yield from (f"    {line}" for line in body)
        yield ""


def _group(g: GroupPlan) -> Iterator[str]:
    yield f"{g.sign} {g.name}: {_verdict(g)}"
    j = g.judged
    if j is None:
        yield ""
        return
    if j.damaged:
        yield f"    {j.damaged}"
    for change in (*j.learn, *j.rows, *j.free):
        yield f"    {change}"
    if j.unseen:
        yield f"    {j.unseen}"
    for what, n in g.refused.items():
        reason, _, name = what.partition("/")
        yield f"    {n:,} events of {j.run.id if j.run else ''} were rejected ({reason} {name}); 'tandem batch --pinned' includes them"
    if g.recomputed:
        yield f"    will have {_expected(g.rows, 'rows')}{_size(g.bytes)}; its graph: {g.graph}"
    elif j.pending and j.run is not None:
        yield f"    its rows and graph {g.fingerprint[:12] if g.fingerprint else ''} exist, from {j.run.id}; not applied yet"
    yield ""


def _verdict(g: GroupPlan) -> str:
    j = g.judged
    if g.sign == "-" or j is None:
        return "no longer defined; its view is dropped, its rows and graphs stay in the data folder until 'tandem vacuum'"
    if j.pending:
        return "new, to be applied" if j.new else "to be applied"
    if j.new:
        return "new" if g.recomputed or j.run is not None else "new, applied without a run"
    if j.learn:
        return "its graph is analyzed and its rows are recomputed"
    if j.damaged:
        return "its graph's files are damaged; it is saved anew" + (", and its rows are recomputed" if g.recomputed else "")
    if j.rows:
        return "its rows are recomputed" if g.recomputed else "its rows exist"
    if g.recomputed:
        return "unchanged, but recomputed with the others: a stream continues from one run of all groups"
    if j.free:
        return "its graph stays valid, nothing is recomputed"
    if g.keys is not None:
        return "its newest rows are not in the online store yet"
    return "only its entry in Feast's registry changes" if g.sign == "~" else "unchanged"


def _expected(e: Expected | None, what: str, of: bool = True) -> str:
    if e is None or e.number is None:
        return f"an unknown number of {what} ({e.of if e is not None and e.of else 'no run to estimate from'})"
    return f"{'' if e.exact else 'about '}{e.number:,} {what}" + (f" (from {e.of})" if of and e.of and not e.exact else "")


def _size(e: Expected | None) -> str:
    return f", {_expected(e, 'bytes', of=False)}" if e is not None and e.number is not None else ""


def _batch(b: BatchPlan) -> Iterator[str]:
    which = "all groups" if b.all_groups else ", ".join(b.groups)
    how = "with the applied graphs (--pinned)" if b.pinned else "learning graphs"
    if b.range is None:
        found = [_reads(b, name, files) for name, files in b.reads.items() if files.files]
        untold = "time range unknown (no date=YYYY-MM-DD folders): give --start and --end"
        yield from _block(f"Batch run of {which}, {how}", [*found, untold] if found else ["there are no event files yet"])
        return
    days = (b.range[1] - b.range[0]).total_seconds() / 86_400
    span = f"{b.range[0]:%Y-%m-%d %H:%M} to {b.range[1]:%Y-%m-%d %H:%M} ({days:,.4g} day{'s' * (days != 1)})"
    if b.found is not None:
        yield from _block(f"Batch run of {which}, {span}", [f"nothing to compute: {b.found} holds these rows"])
        return
    body = [_reads(b, name, files) for name, files in b.reads.items()]
    if b.goes_on is not None:
        body.append(f"continues {b.goes_on}, whose tiles hold the earlier events")
    yield from _block(f"Batch run of {which}, {how}: {span}", body)


def _reads(b: BatchPlan, name: str, files: EventInputs) -> str:
    what = f"{counted(files.files, 'event file')}, {files.bytes:,} bytes"
    return f"reads {name}: {files.missing}" if files.missing else f"reads {name}: {what}, {_expected(b.events[name], 'events')}"


def _keys(g: GroupPlan) -> str:
    if g.sign == "-":
        return "its rows are deleted with the view, on apply"
    n = g.keys.number if g.keys is not None else None
    return f"materialize replaces the rows of about {n:,} keys" if n is not None else "materialize writes the row of every key"


def _topic(t: TopicPlan) -> Iterator[str]:
    where = f"{t.source}: {t.topic} ({t.format})"
    if t.wrong:
        yield f"! {where}: {t.wrong}"
    elif t.subject:
        yield f"= {where}: the newest schema of {t.subject} has its fields"
    yield from (f"  {where}: {note}" for note in t.notes)


def _now(running: bool) -> str:
    return ", which runs now" if running else ""


def _model(m: ModelPlan) -> str:
    v = m.version
    stage = f", {' and '.join(v.aliases)}: in use!" if m.in_use else ""
    named = ", ".join(m.groups)
    if m.dropped:
        why = f"it reads {named}, whose view is dropped"
    elif m.sure:
        why = f"it was trained on another graph of {named}; the server will refuse it once that graph is applied"
    else:
        why = f"unless the new graph of {named} is identical"
    return f"! {v.model} version {v.version}{stage} {'no longer fits' if m.sure else 'perhaps no longer fits'}: {why}"


def _redefined(c: ModelChange) -> Iterator[str]:
    if c.failed or c.version is None:
        yield f"! {c.model} cannot be read: {c.failed}"
        return
    of = f"{c.model} version {c.version.version}{' (champion)' if 'champion' in c.version.aliases else ''}"
    if c.changes:
        then = f"; version {c.trained} has the current definition" if c.trained is not None else ""
        yield f"~ {of} was trained with another definition{then}"
        yield from (f"      {change}" for change in c.changes)
    if c.code:
        yield f"{' ' if c.changes else '='} {of if not c.changes else 'its code'}: {', '.join(c.code)} changed since it was trained"


# ------------------------------------------------------------------------------------------------------------------------ machines


def to_dict(plan: Plan) -> dict[str, Any]:
    """JSON-able, see :data:`FORMAT`."""
    return {
        "format": FORMAT,
        "repo": str(plan.repo.path),
        "data": str(plan.repo.data),
        "changes": plan.changes,
        "summary": {
            "line": summary(plan),
            "add": plan.count("+"),
            "change": plan.count("~"),
            "remove": plan.count("-"),
            "recomputed": [g.name for g in plan.groups if g.recomputed],
            "models_in_use": sum(m.in_use for m in plan.models),
        },
        "groups": [_group_dict(g) for g in plan.groups],
        "also": list(plan.also),
        "batch": [
            {
                "groups": list(b.groups),
                "range": None if b.range is None else [t.isoformat() for t in b.range],
                "pinned": b.pinned,
                "found": b.found,
                "from_run": b.goes_on,
                "reads": {
                    n: {"files": len(r.files), "bytes": r.bytes, "events": _expected_dict(b.events[n]), "missing": r.missing or None}
                    for n, r in b.reads.items()
                },
            }
            for b in plan.batches
        ],
        "streams": [
            {"name": s.name, "running": s.running, "checkpoint_fits": not s.misfit, "why": s.misfit or None, "what": words or None}
            for s, words in plan.streams
        ],
        "topics": [{**vars(t), "subject": t.subject or None, "wrong": t.wrong or None, "notes": list(t.notes)} for t in plan.topics],
        "models": [
            {
                "model": m.version.model,
                "version": m.version.version,
                "aliases": list(m.version.aliases),
                "in_use": m.in_use,
                "certain": m.sure,
                "groups": list(m.groups),
                "view_dropped": m.dropped,
            }
            for m in plan.models
        ],
        "models_redefined": [
            {
                "model": c.model,
                "version": None if c.version is None else c.version.version,
                "changes": list(c.changes),
                "code": list(c.code),
                "trained": c.trained,
                "failed": c.failed or None,
            }
            for c in plan.redefined
        ],
        "training_sets": [s.id for s in plan.training_sets],
        "feast": None if plan.feast is None else [vars(c) for c in plan.feast],
        "registry_damaged": plan.registry_damaged or None,
        "commands": list(plan.commands),
    }


def _group_dict(g: GroupPlan) -> dict[str, Any]:
    j: Judged | None = g.judged
    return {
        "group": g.name,
        "action": {"+": "add", "~": "change", "-": "remove", "=": "none"}[g.sign],
        "recomputed": g.recomputed,
        "graph": {SAME: "same"}.get(g.graph, "new" if "perhaps" not in g.graph else "perhaps"),
        "fingerprint": g.fingerprint,
        "run": j.run.id if j is not None and j.run is not None else None,
        "changes": [] if j is None else [
            {"what": c.what, "effect": c.effect, "costs": kind}
            for kind, some in (("graph", j.learn), ("rows", j.rows), ("nothing", j.free))
            for c in some
        ],
        "rows": _expected_dict(g.rows),
        "bytes": _expected_dict(g.bytes),
        "keys": _expected_dict(g.keys),
        "rejected_before": g.refused,
        "graph_damaged": (j.damaged if j is not None else "") or None,
        "table_unseen": (j.unseen if j is not None else "") or None,
    }  # fmt: skip


def _expected_dict(e: Expected | None) -> dict[str, Any] | None:
    return None if e is None else {"number": e.number, "exact": e.exact, "from": e.of or None}
