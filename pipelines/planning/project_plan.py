"""A whole plan: what is to be recomputed, what no longer fits, and the commands, in order. Nothing is written.

Batch runs are looked for by the key that ``tandem batch`` begins them with (:mod:`pipelines.batch.run_key`): what is said to run runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.batch.continued import Continued, continued, reading
from pipelines.batch.run_key import begin_of, lost, run_key, sources_of, superseded
from pipelines.lake.data_files import json_digest
from pipelines.lake.graphs import graph_damage, since
from pipelines.planning.definition_changes import all_columns, same_rows
from pipelines.planning.event_inputs import EventInputs, event_inputs
from pipelines.planning.feast_changes import Registry, defined, feast_changes, registry_of
from pipelines.planning.group_plan import Judged, judge
from pipelines.planning.model_changes import ModelChange, model_changes
from pipelines.planning.plan_parts import NEW, PERHAPS, SAME, BatchPlan, Expected, GroupPlan, ModelPlan, Plan
from pipelines.planning.present_state import Present, Stream, bytes_of, whole_range
from pipelines.planning.topic_plan import topic_plans
from pipelines.project.repository import Repo
from pipelines.sources.recorded_files import as_inputs, recorded
from transforms.errors import DataError, TandemError
from transforms.instants import as_option, micros_of

__all__ = ["make_plan"]

APPLY = "tandem apply"
OTHER_EVENTS = "other events"
"""Why no earlier run tells how many there will be."""


def make_plan(repo: Repo, groups: Collection[str] = (), asked: tuple[datetime, datetime] | None = None) -> Plan:
    """The plan for ``groups`` (none: all), over the range ``asked`` (None: that which there are rows of). Raises ConfigError for a group
    that is none, DataError and StoreError for a data folder that cannot be read.

    Apply takes all groups: where the plan has one, groups that it would refuse are planned too (``Plan.also``)."""
    present, registry = Present(repo), registry_of(repo, groups)
    made = _plan(present, registry, groups, asked)
    if groups and APPLY in made.commands and (also := _refused_by_apply(present, groups)):
        everyone = [n for n in repo.groups if n in {*groups, *also}]
        return replace(_plan(present, registry_of(repo, everyone), everyone, asked), also=also)
    return made


def _refused_by_apply(present: Present, groups: Collection[str]) -> tuple[str, ...]:
    """The groups beside these whose newest run is of another definition, has a damaged graph, or is not there: ``batch_job.graphs_of``."""
    rest = {n: g for n, g in present.repo.groups.items() if n not in groups}
    newest = {n: next(iter(present.runs_of(n)), None) for n in rest}
    data, wrong = present.data, []
    for n, run in newest.items():
        if run is None or since(run.definitions[n], rest[n]) is None or graph_damage(data, n, run.fingerprints[n]):
            wrong.append(n)
    return tuple(n for n in wrong if judge(present, rest[n], None).stale)


def _plan(present: Present, registry: Registry | None, groups: Collection[str], asked: tuple[datetime, datetime] | None) -> Plan:
    repo = present.repo
    chosen = repo.only(groups)
    judged = {n: judge(present, g, asked) for n, g in chosen.groups.items()}
    batches = _batches(present, chosen, judged, asked)
    recomputed = {n: b for b in batches for n in b.groups if b.found is None}
    planned = [_group(present, j, recomputed.get(n), batches) for n, j in judged.items()]
    regraphed = {g.name: g.graph for g in planned if g.graph != SAME}
    feast = None if registry is None else feast_changes(defined(chosen, groups), _only(registry, repo, groups), regraphed)
    gone = _removed(present, repo, registry) if not groups else []
    if feast is not None:
        # Which columns a damaged graph gives, it does not tell: its view stays as it is, unless its definition changed.
        same_view = {n for n, j in judged.items() if j.damaged and not j.redefined and not j.free and n not in regraphed}
        feast = [c for c in feast if c.kind != "view" or c.sign != "~" or c.name not in same_view]
        touched = {c.name for c in feast if c.kind == "view"}
        planned = [replace(g, sign="~") if g.sign == "=" and g.name in touched else g for g in planned]
    planned += [GroupPlan(name, "-") for name in gone]
    torn = registry.damaged if registry is not None else ""
    applies = bool(gone or feast or torn or regraphed) or any(j.new or j.pending or j.damaged for j in judged.values())
    streams = tuple((s, _stream_words(s, judged, planned)) for s in present.streams)
    models = _models(present, planned)
    sets = tuple(s for s in present.training_sets if _leaves(s.fingerprints, planned, present))
    redefined = tuple(model_changes(repo, present.versions))
    commands = _commands(present, planned, batches, applies, streams, models, redefined)
    planned_feast = None if feast is None else tuple(feast)
    topics = topic_plans((s for s in sources_of(chosen.groups.values()).values() if s.topic), repo.settings.kafka)
    return Plan(repo, tuple(planned), tuple(batches), planned_feast, models, sets, streams, commands, redefined, topics, (), torn)


def _only(registry: Registry, repo: Repo, groups: Collection[str]) -> Registry:
    """Of the registry what concerns ``groups``; all of it for none."""
    if not groups:
        return registry
    keys = {k for n in groups for k in repo.groups[n].entity.keys}
    some = {n: v for n, v in registry.views.items() if n in groups}
    return replace(registry, views=some, entities={n: e for n, e in registry.entities.items() if n in keys})


def _removed(present: Present, repo: Repo, registry: Any) -> list[str]:
    """The groups that are applied and not defined any more: by the registry, else by the last apply."""
    if registry is not None and not registry.damaged:
        return sorted(n for n, v in registry.views.items() if v["definition"] is not None and n not in repo.groups)
    last = present.latest("apply")
    return sorted(set(last.fingerprints if last else ()) - set(repo.groups))


# --------------------------------------------------------------------------------------------------------------------------- batch


def _batches(present: Present, repo: Repo, judged: dict[str, Judged], asked: tuple[datetime, datetime] | None) -> list[BatchPlan]:
    stale = [n for n, j in judged.items() if j.stale]
    if not stale or _needs_no_run(present, repo):
        return []
    pinned = [n for n in stale if _holds(present, judged[n])]
    learnt = [n for n in stale if n not in pinned]
    if present.streams and len(repo.groups) == len(present.repo.groups):  # a stream goes on from one run of all groups
        everyone = list(repo.groups)
        pinned, learnt = ([], everyone) if learnt else (everyone, [])
    return [_batch(present, repo, judged, names, how, asked) for names, how in ((learnt, False), (pinned, True)) if names]


def _holds(present: Present, j: Judged) -> bool:
    """Whether the applied graph is what the group is defined to have, so that a run may go on with it."""
    right = not j.damaged and j.run is not None and j.run.fingerprints[j.group.name] == present.applied.get(j.group.name)
    return right and j.fits and not j.learn


def _needs_no_run(present: Present, repo: Repo) -> bool:
    """Whether all is streamed: no run was ever made, nothing is to be learnt, and there is no event file. ``apply`` makes such graphs."""
    if present.batch_runs or any(g.preprocessing_fn for g in repo.groups.values()):
        return False
    return not any(event_inputs(present.data, s, None, None).files for s in sources_of(repo.groups.values()).values())


def _batch(
    present: Present, repo: Repo, judged: dict[str, Judged], names: list[str], pinned: bool, asked: tuple[datetime, datetime] | None
) -> BatchPlan:
    some = repo.only(names)
    groups, sources = list(some.groups.values()), sources_of(some.groups.values())
    span = asked or _range(present, some, judged)
    if span is None:
        reads = {n: event_inputs(present.data, s, None, None) for n, s in sources.items()}
        events = {n: _events(present, n, judged, r) for n, r in reads.items()}
        return BatchPlan(tuple(names), len(names) == len(present.repo.groups), None, pinned, reads, events)
    end = micros_of(span[1])
    if pinned and (then := _gone_on_with(some, judged, span[1])) is not None:
        begin = begin_of(groups, micros_of(then.end), end)
        try:
            reads = {n: EventInputs(tuple(reading(present.data, s, then, begin[n], end).files)) for n, s in sources.items()}
        except DataError:  # an event file was altered, say
            pass
        else:
            events = {n: _events(present, n, judged, reads[n]) for n in sources}
            whole = len(names) == len(present.repo.groups)
            return BatchPlan(tuple(names), whole, (then.end, span[1]), pinned, reads, events, goes_on=then.record.id)
    begin = begin_of(groups, micros_of(span[0]), end)
    reads = {n: event_inputs(present.data, s, begin[n], end) for n, s in sources.items()}
    events = {n: _events(present, n, judged, reads[n]) for n in sources}
    found = _existing(present, some, span, reads, {n: present.applied[n] for n in names} if pinned else {})
    return BatchPlan(tuple(names), len(names) == len(present.repo.groups), span, pinned, reads, events, found)


def _gone_on_with(repo: Repo, judged: dict[str, Judged], end: datetime) -> Continued | None:
    """The run whose tiles the rows of a later time can be made from; None where there is none, or where more is to be made."""
    ends = {judged[n].extends for n in repo.groups}
    if len(ends) != 1 or None in ends:
        return None
    try:
        then = continued(repo, "latest", None, end)
    except TandemError:
        return None
    alike = all((run := judged[n].run) is not None and run.fingerprints[n] == then.record.fingerprints[n] for n in repo.groups)
    return then if alike and then.end in ends else None


def _range(present: Present, repo: Repo, judged: dict[str, Judged]) -> tuple[datetime, datetime] | None:
    """What there are rows of; else what other runs cover, what tandem.yaml names, what the folders of the event files do."""
    known = [judged[n].range for n in repo.groups]
    ranges = [[t.isoformat() for t in r] for r in known if r is not None] or [r.range for _, r in present.batch_runs[:1]]
    if (found := whole_range(ranges)) is not None:
        return found
    demo = repo.settings.demo
    if demo.start is not None and demo.end is not None:
        return demo.start, demo.end
    days = [d for s in sources_of(repo.groups.values()).values() if (d := event_inputs(present.data, s, None, None).days())]
    if not days:
        return None
    first, last = min(d[0] for d in days), max(d[1] for d in days) + timedelta(days=1)
    return datetime(first.year, first.month, first.day, tzinfo=UTC), datetime(last.year, last.month, last.day, tzinfo=UTC)


def _events(present: Present, source: str, judged: dict[str, Judged], reads: EventInputs) -> Expected:
    """How many events these files hold: as a run counted that read them, or scaled from one by bytes."""
    now = {f.name: f.size for f in reads.files}
    groups = [j for j in judged.values() if j.group.source.name == source]
    canonical, why = json.loads(json.dumps(groups[0].group.source.canonical())), ""
    for _, run in present.batch_runs:
        then = {f["file"]: f["size"] for f in run.inputs.get(source, ())}
        if not then or source not in run.events:
            continue
        made_of = next((run.definitions[j.group.name]["source"] for j in groups if j.group.name in run.definitions), None)
        same = made_of == canonical
        if made_of is not None and _other_events(made_of, canonical):
            why = OTHER_EVENTS
            break
        if then == now:
            return Expected(run.events[source], same, run.id)
        if size := sum(then.values()):
            return Expected(round(run.events[source] * reads.bytes / size), False, f"{run.id}, by bytes")
    s = groups[0].group.source
    number = reads.events() if s.explode is None and s.where is None else None
    return Expected(number, number is not None, "the files' footers" if number is not None else why)


def _existing(
    present: Present, repo: Repo, span: tuple[datetime, datetime], reads: dict[str, EventInputs], graphs: dict[str, str]
) -> str | None:
    """The complete run of the key that ``tandem batch`` would begin with, if there is one."""
    if any(present.table_news(s)[0] for s in sources_of(repo.groups.values()).values()):
        return None  # it takes another snapshot
    alike = [r for r in (run.record for run, _ in present.batch_runs) if whole_range([r.range]) == span]
    if not alike:
        return None
    records = [record for _, record in present.batch_runs]
    known = {n: recorded(records, n) for n in reads}
    # A file that no run of that range has by name and size is in no such run: nothing need be hashed for it.
    for n, files in reads.items():
        if not any({(f["file"], f["size"]) for f in r.inputs.get(n, ())} == {(f.name, f.size) for f in files.files} for r in alike):
            return None
    inputs = {n: as_inputs(files.files, known[n]) for n, files in reads.items()}
    key = json_digest(run_key(repo, *span, inputs, graphs, present.engine))
    made = [run for run, record in present.batch_runs if record.key == key]
    complete = [run for run, _ in present.batch_runs]
    return next((run.id for run in made if not (lost(repo.data, run) or superseded(run, complete, list(repo.groups), *span))), None)


# -------------------------------------------------------------------------------------------------------------------------- groups


def _group(present: Present, j: Judged, batch: BatchPlan | None, batches: list[BatchPlan]) -> GroupPlan:
    name = j.group.name
    found = next((b.found for b in batches if name in b.groups and b.found), None)
    graph, fingerprint = _graph(present, j, batch, found)
    unloaded = not j.stale and not j.pending and present.unloaded(name)
    sign = "+" if j.new else "~" if j.stale or j.pending or unloaded else "="
    rows = size = None
    if batch is not None:
        rows, size = _rows(j, batch)
    made = present.latest("materialize")
    keys = None
    if batch is not None or j.pending or found or unloaded:
        n = made.counts.get(f"rows/{name}") if made is not None else None
        keys = Expected(n, False, "as the last materialize wrote" if n is not None else "")
    return GroupPlan(name, sign, j, batch is not None, graph, fingerprint, rows, size, keys, _refused(j))


def _graph(present: Present, j: Judged, batch: BatchPlan | None, found: str | None) -> tuple[str, str | None]:
    """Which graph the group will have, and its fingerprint where it is known."""
    name = j.group.name
    applied = present.applied.get(name)
    known = j.run.fingerprints[name] if j.pending and j.run is not None else None
    if found is not None:
        known = next(record.fingerprints[name] for _, record in present.batch_runs if record.id == found)
    if batch is not None and not batch.pinned:
        known = None
        if applied is None or j.new or j.redefined or j.free:
            return NEW, None  # the definition is part of the fingerprint
        if j.learn or (j.group.preprocessing_fn is not None and not j.same_rows):
            return PERHAPS, None
        known = j.run.fingerprints[name] if j.run is not None else None  # the same rows give the same graph
    if known is not None and known != applied:
        return NEW, known
    return SAME, applied


def _other_events(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a source takes others of its records, or takes them apart otherwise: how many that makes of them, no earlier run says."""
    return any(then.get(key) != now.get(key) for key in ("where", "explode"))


def _rows(j: Judged, batch: BatchPlan) -> tuple[Expected, Expected]:
    """What a run will make of a group, from what its newest run made."""
    name = j.group.name
    if j.run is None or name not in j.run.rows or batch.range is None:
        return Expected(None), Expected(None)
    now, before = json.loads(json.dumps(j.group.canonical())), j.run.definitions[name]
    if now["entity"] != before["entity"] or now["source"]["name"] != before["source"]["name"]:
        return Expected(None, False, "other keys"), Expected(None)
    if _other_events(before["source"], now["source"]):
        return Expected(None, False, OTHER_EVENTS), Expected(None)
    then = whole_range([j.run.range])
    assert then is not None
    days = (batch.range[1] - batch.range[0]) / (then[1] - then[0])
    windows = [len({us for a in d["aggregates"] for us in a["over"]}) for d in (before, now)]
    number = j.run.rows[name] * days * (1 + windows[1]) / (1 + windows[0])
    exact = same_rows(before, now) and not j.rows and days == 1
    why = j.run.id
    if windows[0] != windows[1]:
        why += f", {windows[1]} windows instead of {windows[0]}"
    columns = [len(all_columns(d)) + len(d["entity"]) + 5 for d in (before, now)]
    size = bytes_of(j.run, name) * number / max(j.run.rows[name], 1) * columns[1] / columns[0]
    return Expected(round(number), exact, why), Expected(round(size), False, j.run.id)


def _refused(j: Judged) -> dict[str, int]:
    """The rejects of the group's newest run that may be events now that the contract accepts more."""
    if j.run is None or not j.free or j.stale:
        return {}
    source = f"{j.group.source.name}/"
    found = {k.removeprefix(source): n for k, n in j.run.rejected_fields.items() if k.startswith(source)}
    named = {c.what.split("'")[1] for c in j.free if "'" in c.what}
    wider = ("not_in_domain", "out_of_range", "missing_field")
    return {k: n for k, n in found.items() if k.partition("/")[0] in wider and k.partition("/")[2] in named}


# ------------------------------------------------------------------------------------------------------------------- consequences


def _leaves(fingerprints: Any, groups: Iterable[GroupPlan], present: Present) -> list[GroupPlan]:
    """The groups whose graph now is the one that something was made of, and will not be."""
    return [
        g
        for g in groups
        if g.name in fingerprints
        and (g.sign == "-" or (g.graph != SAME and present.applied.get(g.name) == fingerprints[g.name] != g.fingerprint))
    ]


def _models(present: Present, groups: list[GroupPlan]) -> tuple[ModelPlan, ...]:
    out = []
    for version in present.versions:
        left = _leaves(version.fingerprints, groups, present) if version.fits else []
        if left:
            sure = any(g.sign == "-" or g.graph == NEW for g in left)
            out.append(ModelPlan(version, sure, tuple(g.name for g in left), all(g.sign == "-" for g in left)))
    return tuple(out)


def _stream_words(stream: Stream, judged: dict[str, Judged], groups: list[GroupPlan]) -> str:
    """What becomes of a stream; empty: nothing."""
    words = _redefined_words(stream, judged, groups)
    if not stream.otherwise or stream.misfit:
        return words
    read = f"was started with other settings ({', '.join(stream.otherwise)}); after a restart it reads with those of now"
    return f"{words}; {read}" if words else read


def _redefined_words(stream: Stream, judged: dict[str, Judged], groups: list[GroupPlan]) -> str:
    other = [g.name for g in groups if g.sign == "-" or g.graph != SAME]
    if stream.misfit:
        return "its checkpoint does not match: it starts over"
    if other:
        return f"must be restarted, for the graphs of {', '.join(other)}; it resumes from its checkpoint"
    if any(j.free for j in judged.values()):
        return "uses the wider contract after a restart; it resumes from its checkpoint"
    return ""


def _commands(
    present: Present,
    groups: list[GroupPlan],
    batches: list[BatchPlan],
    applies: bool,
    streams: tuple[tuple[Stream, str], ...],
    models: tuple[ModelPlan, ...],
    redefined: tuple[ModelChange, ...],
) -> tuple[str, ...]:
    out = []
    for b in batches:
        if b.found is not None:
            continue
        over = "--start START --end END" if b.range is None else _from_to(b.range)
        if b.goes_on is not None and b.range is not None:
            over = f"--from-run {b.goes_on} --end {as_option(b.range[1])}"
        only = "" if b.all_groups else "".join(f" --group {n}" for n in b.groups)
        out.append(f"tandem batch {over}{only}{' --pinned' if b.pinned else ''}")
    if applies:
        out.append(APPLY)
    loads = [g for g in groups if g.keys is not None]
    spans = [b.range for b in batches if b.range] + [g.judged.range for g in loads if g.judged is not None and g.judged.range]
    if loads and (span := whole_range([[t.isoformat() for t in s] for s in spans])):
        delay = max(g.judged.group.source.out_of_orderness for g in loads if g.judged is not None)  # the last row is served so much later
        out.append(f"tandem materialize {_from_to((span[0], span[1] + delay))}")
    for stream, words in streams:
        if (applies and (words or stream.misfit)) or (stream.otherwise and stream.running):
            name = "" if stream.name == "main" else f" --name {stream.name}"
            if stream.running:
                out.append(f"tandem stream stop{name}")
            out.append(f"tandem stream{name}{' --reset --from-run latest' if stream.misfit else ''}")
    unfit = dict.fromkeys(m.version.model for m in models if m.in_use)
    other = {c.model: c.trained is not None for c in redefined if c.changes}
    for model in {**unfit, **other}:
        if model in unfit or not other[model]:  # else a version of the present definition is there
            trained = present.trained_over(model)
            out.append(f"tandem train --model {model}" + (f" {_from_to(trained)}" if trained else ""))
        out.append(f"tandem promote --model {model}")
    return tuple(out)


def _from_to(span: tuple[datetime, datetime]) -> str:
    return f"--start {as_option(span[0])} --end {as_option(span[1])}"
