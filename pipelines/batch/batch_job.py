"""``tandem batch``: a range of history to offline feature rows, as Beam jobs that any runner can take.

Events -> contract -> tiles -> windows -> rows (first job, which also keeps the tiles that a stream starts from); analyzers over the
rows (second); rows -> transform graph -> offline rows (third). All is written in a folder of this attempt's, and becomes visible by one
rename per feature group at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipelines.batch.analysis import analyze_groups
from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.beam_options import BeamEngine
from pipelines.batch.continued import continued
from pipelines.batch.far_files import far_files
from pipelines.batch.left_behind import left_behind
from pipelines.batch.row_jobs import RowJobs
from pipelines.batch.run_files import run_files
from pipelines.batch.run_key import begin_of, declared, lost, run_key, sources_of, superseded
from pipelines.batch.work_place import clear_run_folder
from pipelines.lake import layout, provenance, runs, shared
from pipelines.lake.graphs import carried_over, graph_for, hash_of, have_graph, remember_definitions, since
from pipelines.project import recording
from pipelines.project.repository import Repo
from pipelines.sources.event_files import passed_over_record
from pipelines.sources.log_names import in_range
from pipelines.sources.tables.snapshots import take_snapshot
from transforms.data_folder import snapshot_name
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError, DataError, GraphError, TandemError
from transforms.graph import TransformGraph
from transforms.instants import as_option, micros_of
from transforms.run_cover import Cover, write_cover

__all__ = ["BatchResult", "graphs_of", "newest_graphs", "run_batch"]


@dataclass(frozen=True)
class BatchResult:
    """What a batch run made. ``reused`` is true where an earlier run of the same inputs already had."""

    run: runs.Run
    reused: bool


def run_batch(
    repo: Repo,
    start: datetime | None,
    end: datetime,
    *,
    now: datetime,
    from_run: str | None = None,
    engine: BatchEngine | None = None,
    pinned: bool = False,
    rerun: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> BatchResult:
    """Make the rows with ``start < boundary <= end`` of every group, visible under ``data/offline/<group>/run=<id>``.

    ``pinned`` reuses each group's applied graph instead of analyzing anew. A run of the same inputs, range, definitions and code
    (as far as it can change a value) that is complete is returned as it is unless ``rerun``; one that was killed is completed under its id.
    ``from_run`` is the id of a run, or ``latest``, whose tiles and graphs are gone on with: rows after its end, read from the files since
    then (:mod:`pipelines.batch.continued`); ``start`` is None then. ``engine`` runs the pipelines; None: Beam, in this process.
    Raises RejectLimitError before anything is visible when too many events were rejected.
    """
    data, engine = repo.data, engine or BeamEngine()
    engine.ready()
    before = continued(repo, from_run, start, end) if from_run is not None else None
    start = before.end if before is not None else start
    if start is None:
        raise ConfigError("--start is missing; give a date such as --start 2013-01-01, or --from-run latest")
    if start >= end:
        raise ConfigError(f"range {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}: the end must be after the start")
    sources = sources_of(repo.groups.values())
    begin_us = begin_of(repo.groups.values(), micros_of(start), micros_of(end))
    tables = {n: take_snapshot(data, s, progress) for n, s in sources.items() if s.table is not None}
    shared.send_files(data, [snapshot_name(n) for n in tables])
    progress("listing and hashing input files")
    with _in_one_line():
        far = far_files(data, sources, begin_us, micros_of(end), engine, before)
    for name, source in sources.items() if far is None else ():
        if source.table is None and source.files:
            first = begin_us[name] if before is None else None  # that the files of then are as they were is looked at, too
            shared.have_files(data, [source.files], lambda file, first=first: in_range(file, first, micros_of(end)))  # type: ignore[misc]
    events = run_files(data, sources, begin_us, micros_of(end), before, progress, far)
    if not any(events.files.values()) and not any(events.past.values()):
        raise ConfigError(
            f"no event files between {as_option(start)} and {as_option(end)} below {data}; correct --start and --end or data (if there were"
            f" no events, put an empty file below date={start:%Y-%m-%d}; it also retracts the rows of earlier runs)"
        )
    graphs = {n: pinned_graph(data, g) for n, g in repo.groups.items()} if pinned else {}
    if before is not None and not pinned:
        graphs = graphs_of(repo, runs.find(data, before.record.id))
    remember_definitions(data, repo.groups.values())
    carried = {n: lines for n, g in repo.groups.items() if n in graphs and (lines := carried_over(data, g, hash_of(data, n, graphs[n])))}
    for name, lines in carried.items():
        progress(f"{name}: its applied graph is carried over to a contract that accepts more: {'; '.join(lines)}")
    groups = list(repo.groups)
    complete = runs.RunStore(data).as_written("batch", "complete")
    key = run_key(repo, start, end, events.inputs, graphs)
    if before is not None:
        key["continues"] = before.named
    run = runs.begin(data, "batch", key, now, rerun=rerun, replaced=lambda r: lost(data, r) or superseded(r, complete, groups, start, end))
    if run.status == "complete":
        progress(f"run {run.id} already holds these rows; nothing to do (--rerun computes them again)")
        return BatchResult(run, True)
    with run.held():
        if run.status == "complete":  # another process came first
            return BatchResult(run, True)
        made = run.stage == "publishing"  # only some of it is not visible yet
        fields = {
            "range": [start.isoformat(), end.isoformat()],
            "inputs": events.inputs,
            "runner": engine.name,
            "pinned": pinned or before is not None,
            "carried_over": carried,
            "declared": {n: declared(g) for n, g in repo.groups.items()},
        }
        if tables:
            fields["tables"] = tables
        if before is not None:
            fields |= {"continues": before.named, "past": events.past, "spans": events.spans}
        fields["passed_over"] = passed_over_record(events.passed)
        with recording.recording(run, repo, **({"status": "publishing"} if made else fields)):
            if not made:
                tiles = before.tiles if before is not None else {}
                with _in_one_line():
                    RowJobs(repo, run, sources, events, tiles, begin_us, micros_of(start), micros_of(end), graphs, engine, progress).make()
            done = _publish(repo, run)
            for line in left_behind(done, complete, repo.groups):
                progress(line)
            return BatchResult(done, False)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What a step raised in an engine, which wraps it, becomes one line."""
    try:
        yield
    except Exception as error:
        if "[while running" in str(error) and not isinstance(error, TandemError):
            raise DataError(f"the batch job failed: {_said(error)}; fix the cause and run the same command again") from error
        raise


def _said(error: Exception) -> str:
    """One line of an engine's error: of one that is a worker's traceback, its last."""
    lines = str(error).splitlines() or [type(error).__name__]
    if not lines[0].startswith("Traceback "):
        return lines[0]
    last = next(line for line in reversed(lines) if "[while running" in line)
    return re.sub(r"^[\w.]+: ", "", last)  # the name of its class


def _publish(repo: Repo, run: runs.Run) -> runs.Run:
    """Make the run's rows visible, a whole group at a time; may be repeated after a crash."""
    record = run.record
    after, upto = (micros_of(datetime.fromisoformat(t)) for t in record.range)
    created, prints = micros_of(datetime.fromisoformat(run.created)), dict(record.fingerprints)
    for name, group in repo.groups.items():
        made, target = layout.offline(run.folder) / name, layout.offline_run(repo.data, name, run.id)
        if not target.is_dir():  # also without rows: that a run has none is what it says
            write_cover(made, Cover(run.id, created, after + group.delay_us, upto + group.delay_us, prints[name]))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(made, target)
    shutil.rmtree(layout.offline(run.folder), ignore_errors=True)
    clear_run_folder(run)
    kept = {f"offline/{n}": layout.offline_run(repo.data, n, run.id) for n in repo.groups} | {"tiles": run.folder / "tiles"}
    counts = {
        f"{what}/{n}": v for what in ("events", "filtered", "empty", "rejected", "rows") for n, v in run.manifest.get(what, {}).items()
    }
    run.save(outputs=provenance.hashed(repo.data, kept), counts=counts)
    run.save(status="complete")
    return run


def pinned_graph(data: Path, group: FeatureGroup) -> str:
    """The fingerprint of the graph that is applied to ``group``. Raises GraphError if none is, or one of another definition."""
    fingerprint = graph_for(data, group, "'tandem batch' without --pinned and 'tandem apply'")
    TransformGraph.load(layout.graph(data, group.name, fingerprint), fingerprint)
    return fingerprint


def graphs_of(repo: Repo, run: runs.Run) -> dict[str, str]:
    """Group -> fingerprint of the graphs of a complete run, each verified and of the group as it is defined now. Raises GraphError."""
    fingerprints: dict[str, str] = run.record.fingerprints
    for name, group in repo.groups.items():
        fingerprint = fingerprints.get(name)
        if fingerprint is None:
            raise GraphError(f"run {run.id} made no rows of group {name!r}; run 'tandem batch' with the current definitions")
        have_graph(repo.data, name, fingerprint)
        graph = TransformGraph.load(layout.graph(repo.data, name, fingerprint), fingerprint)
        made_of = run.record.definitions.get(name)
        if since(made_of, group) is None:
            raise GraphError(f"group {name!r} was redefined after run {run.id} ({graph.fingerprint[:12]}); run 'tandem batch' again")
    return {n: fingerprints[n] for n in repo.groups}


def newest_graphs(repo: Repo, complete: Sequence[runs.Run]) -> tuple[dict[str, str], list[runs.Run]]:
    """Each group's graph of the newest of ``complete`` (oldest first) that made rows of it, and those runs, newest first.

    Raises GraphError as :func:`graphs_of` does, also for a group that none of them made rows of.
    """
    made_by = {n: next((r for r in reversed(complete) if n in r.record.fingerprints), complete[-1]) for n in repo.groups}
    used = [r for r in reversed(complete) if any(r is run for run in made_by.values())]
    fingerprints: dict[str, str] = {}
    for run in used:
        fingerprints |= graphs_of(repo.only([n for n in repo.groups if made_by[n] is run]), run)
    return {n: fingerprints[n] for n in repo.groups}, used


def plain_graphs(repo: Repo) -> dict[str, str]:
    """Group -> fingerprint of graphs that nothing is learnt for, saved where they are not there yet. Raises ConfigError for a repository
    that has a group with a preprocessing_fn."""
    learnt = [name for name, group in repo.groups.items() if group.preprocessing_fn is not None]
    if learnt:
        raise ConfigError(
            f"there is no complete batch run, and the graph of {', '.join(learnt)} is learnt from one; run 'tandem batch' first"
            " (groups without a preprocessing_fn need none)"
        )
    return analyze_groups({name: (group, None, ()) for name, group in repo.groups.items()}, layout.graphs(repo.data))
