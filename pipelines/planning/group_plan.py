"""One feature group: how what is defined differs from what its newest rows and its applied graph were made of, and what that asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.batch.run_key import begin_of, code_of, declared
from pipelines.lake.graphs import graph_damage
from pipelines.lake.run_records import BatchRecord
from pipelines.planning.definition_changes import Change, definition_changes
from pipelines.planning.definition_words import span
from pipelines.planning.event_inputs import differences, event_inputs
from pipelines.planning.present_state import Present, whole_range
from pipelines.sources.log_names import in_range
from pipelines.sources.recorded_files import recorded
from transforms.definitions import FeatureGroup
from transforms.instants import as_option, micros_of

__all__ = ["Judged", "judge"]

_LOOKED_AT = 20
"""How many runs back one is looked for that has what is defined now: a definition that is taken back needs no new one."""


@dataclass(frozen=True)
class Judged:
    """What a group asks for.

    ``learn``: why its graph must be learnt anew, and with it its rows made; ``rows``: why its rows must be made anew, though its graph
    holds; ``free``: what differs and costs nothing. ``run``: the newest run that made rows as they are defined now, or the newest at all;
    None: there is none. ``range``: what the rows cover that are of that run's graph. ``pending``: the run is right, and its graph is not
    the applied one. ``fits``: the applied graph holds for the definition.
    """

    group: FeatureGroup
    run: BatchRecord | None
    range: tuple[datetime, datetime] | None
    learn: tuple[Change, ...] = ()
    rows: tuple[Change, ...] = ()
    free: tuple[Change, ...] = ()
    redefined: bool = False
    new: bool = False
    fits: bool = False
    damaged: str = ""
    """What is wrong with the files of its graph: that of ``run``, else the applied one; a run saves it anew."""
    pending: bool = False
    same_rows: bool = True
    """Whether a run would learn from the rows that ``run`` learnt from."""
    extends: datetime | None = None
    """Where its rows end, if nothing is asked for but rows of a later time, which follow on them; else None."""
    unseen: str = ""
    """What cannot be told of its source's table without its rows; a run takes them as they are then."""

    @property
    def stale(self) -> bool:
        """Whether a batch run must make it anew."""
        return bool(self.new or self.learn or self.rows or self.damaged) and not self.pending


def judge(present: Present, group: FeatureGroup, asked: tuple[datetime, datetime] | None) -> Judged:
    """``asked``: the range that rows are wanted of; None: that which there are rows of."""
    runs = present.runs_of(group.name)
    fits = present.fits(group)
    applied = present.applied.get(group.name)
    if not runs:
        damaged = graph_damage(present.data, group.name, applied) if applied is not None else ""
        plain = group.preprocessing_fn is None and (fits or bool(damaged))  # applied without a run, for a stream alone
        return Judged(
            group, None, asked, new=applied is None, fits=fits, damaged=damaged, learn=() if plain or applied is None else (_LOST,)
        )
    found: Judged | None = None
    for n, run in enumerate(runs[:_LOOKED_AT]):
        one = _against(present, group, run, runs, asked, fits, newest=n == 0)
        if found is None or (found.learn and not one.learn):
            found = one
        if not one.learn:
            break
    assert found is not None
    return found


_OLDER = Change("its newest run has another definition", "rows and graph of the newest run count")
_LOST = Change("no batch run has its rows any longer", "every row")


def _against(
    present: Present,
    group: FeatureGroup,
    run: BatchRecord,
    runs: list[BatchRecord],
    asked: tuple[datetime, datetime] | None,
    fits: bool,
    newest: bool,
) -> Judged:
    name, now = group.name, json.loads(json.dumps(group.canonical()))
    changes = definition_changes(run.definitions[name], now)
    redefined = any(not c.free for c in changes)
    alike = [r for r in runs if r.fingerprints[name] == run.fingerprints[name]]
    learnt = next((r for r in alike if not r.pinned), alike[-1])  # a pinned run took the graph as it was, whatever the code said by then
    learn = [c for c in changes if redefined]
    function = _function(learnt.declared.get(name), group)
    learn += function or _code(present, learnt, group)
    covered = whole_range(r.range for r in alike)
    rows = _file_format(run.declared.get(name), group) + _engine(present, run) + _settings(present, run)
    lateness = _lateness(run.declared.get(name), group)
    if present.streams:
        rows += lateness
    rows += [] if redefined else _inputs(present, group, alike)
    if asked is not None and covered is not None and (asked[0] < covered[0] or asked[1] > covered[1]):
        rows.append(Change(f"rows of {_from_to(asked)}", f"there are those of {_from_to(covered)}"))
    extends = None
    if asked is not None and covered is not None and len(rows) == 1 and covered[0] <= asked[0] <= covered[1] < asked[1]:
        extends = covered[1]
    if not newest and not learn:
        rows.insert(0, _OLDER)
    fingerprint = run.fingerprints[name]
    damaged = graph_damage(present.data, name, fingerprint)
    return Judged(
        group,
        run,
        asked or covered,
        learn=tuple(learn),
        rows=tuple(rows),
        free=() if redefined else (*changes, *(lateness if not present.streams else ())),
        redefined=redefined or any("none" in c.what for c in function),
        new=name not in present.applied,
        fits=fits,
        damaged=damaged,
        pending=not learn and not rows and not damaged and present.applied.get(name) != fingerprint,
        same_rows=not rows or rows == [_OLDER],
        extends=extends,
        unseen=present.table_news(group.source)[1],
    )


def _from_to(span: tuple[datetime, datetime]) -> str:
    return " to ".join(map(as_option, span))


def _function(then: Mapping[str, Any] | None, group: FeatureGroup) -> list[Change]:
    """Runs of before said nothing of it; their code differs."""
    if then is None or then.get("preprocessing_fn") == group.preprocessing_fn:
        return []
    before, now = (f or "none" for f in (then.get("preprocessing_fn"), group.preprocessing_fn))
    return [Change(f"preprocessing_fn: {before} -> {now}", "its graph is analyzed again")]


def _code(present: Present, run: BatchRecord, group: FeatureGroup) -> list[Change]:
    then = run.code.get("value_files") or {}
    changed = sorted(f for f, meaning in code_of(present.repo, group).items() if then.get(f) != meaning)
    if not changed:
        return []
    why = f"preprocessing_fn {group.preprocessing_fn}" if group.preprocessing_fn else "its aggregates"
    files = ", ".join(f.removeprefix("repo/") for f in changed)
    return [Change(f"{files} changed", f"{why} may compute something else: its graph is analyzed again")]


def _file_format(then: Mapping[str, Any] | None, group: FeatureGroup) -> list[Change]:
    before, now = (d.get("file_format") or "none" for d in (then or declared(group), declared(group)))
    what = f"source {group.source.name}: file_format {before} -> {now}"
    return [Change(what, "the same files are other events")] if before != now else []


def _lateness(then: Mapping[str, Any] | None, group: FeatureGroup) -> list[Change]:
    before, now = (d.get("allowed_lateness", 0) for d in (then or declared(group), declared(group)))
    what = f"source {group.source.name}: allowed_lateness {span(before)} -> {span(now)}"
    return [Change(what, "values stay the same; a run keeps other tiles for a stream to start from", free=True)] if before != now else []


def _engine(present: Present, run: BatchRecord) -> list[Change]:
    then, now = {f: m for f, m in (run.code.get("value_files") or {}).items() if not f.startswith("repo/")}, present.engine
    files = sorted(f for f in {*then, *now} if then.get(f) != now.get(f))
    out = []
    if files:
        some = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        out.append(Change(f"Tandem's own code changed ({some})", "every row is recomputed"))
    libraries = present.libraries
    for name in sorted({*run.versions, *libraries}):
        if run.versions.get(name) != libraries.get(name):
            out.append(Change(f"{name} {run.versions.get(name, 'none')} -> {libraries.get(name, 'none')}", "every row is recomputed"))
    return out


def _settings(present: Present, run: BatchRecord) -> list[Change]:
    now = present.repo.settings.batch.model_dump(mode="json")
    then = run.settings.get("batch") or {}
    return [
        Change(f"batch.{name}: {then.get(name)} -> {now.get(name)}", "every row is recomputed")
        for name in sorted({*then, *now})
        if then and then.get(name) != now.get(name)
    ]


def _inputs(present: Present, group: FeatureGroup, alike: list[BatchRecord]) -> list[Change]:
    """Event files that are not as the runs of the group's graph read them, the snapshot of a table among them; a table that moved on."""
    covered = whole_range(r.range for r in alike)
    if covered is None:
        return []
    moved, _ = present.table_news(group.source)
    if moved:
        return [Change(f"table of {group.source.name}: {moved}", "rows are computed from a new snapshot")]
    begin, end = begin_of([group], *map(micros_of, covered))[group.source.name], micros_of(covered[1])
    now = event_inputs(present.data, group.source, begin, end)
    found = differences(now, recorded(alike, group.source.name), lambda name: in_range(name, begin, end))
    return [Change(f"event files of {group.source.name}: {found}", "rows are computed from other events")] if found else []
