"""Decides where a stream starts, and says why: its resume point, the end of a batch run, or the beginning of its topics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.lake import runs
from pipelines.project.repository import Repo
from pipelines.streaming.state.initial_tiles import seed_end
from pipelines.streaming.state.job_state import Control
from pipelines.streaming.state.start_position import Start, resume
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError, DataError

__all__ = ["after_run", "decide"]


def decide(repo: Repo, control: Control, shards: int, from_run: str | None = None, anew: bool = False) -> Start:
    """Where a stream of the repository's groups starts.

    The resume point counts if there is one, unless ``anew``, or unless ``from_run`` names another run than the one it began from
    (``latest`` counts only where there is no resume point). Raises DataError for a resume point that the present definitions cannot go
    on from, and for a run that does not fit them; ConfigError for one that is not there.
    """
    if anew:
        control.clear_progress()
    progress = control.load_progress()
    before = {point.get("run") for point in progress.values()}
    wanted = None if from_run in (None, "latest") else runs.find(repo.data, str(from_run))
    if progress and (wanted is None or before == {str(wanted.folder)}):
        return _resumed(repo, control, progress, shards)
    if progress:
        control.clear_progress()
    if from_run is None:
        return Start()
    return after_run(repo, wanted or _latest(repo))


def _latest(repo: Repo) -> runs.Run:
    complete = [r for r in runs.list_runs(repo.data) if r.manifest.get("kind") == "batch" and r.status == "complete"]
    if not complete:
        raise ConfigError("--from-run latest: there is no complete batch run; run 'tandem batch' first, or leave it out")
    return complete[-1]


def after_run(repo: Repo, run: runs.Run) -> Start:
    """The start that goes on where a complete batch run ended. Raises DataError if it cannot be gone on from."""
    if run.manifest.get("kind") != "batch" or run.status != "complete":
        raise DataError(f"--from-run {run.id}: it is a {run.manifest.get('kind')} run and {run.status}; name a complete batch run")
    for name, group in repo.groups.items():
        if json.loads(json.dumps(group.canonical())) != run.manifest.get("definitions", {}).get(name):
            raise DataError(f"--from-run {run.id}: group {name!r} was redefined since; run 'tandem batch' again")
    end = seed_end(run.folder)
    emitted = {n: end - end % g.hop_us for n, g in repo.groups.items()}
    return Start(emitted=emitted, begin=end, run=str(run.folder), why=f"the end of batch run {run.id}, {_when(end)}")


def _when(us: int) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us):%Y-%m-%d %H:%M}"


def _resumed(repo: Repo, control: Control, progress: Mapping[int, Mapping[str, Any]], shards: int) -> Start:
    _same_definitions(repo.groups, progress)
    points = list(progress.values())
    run, begin = points[0].get("run"), Start().begin
    if run is not None:
        try:
            begin = seed_end(Path(run))
        except DataError as error:
            raise DataError(
                f"stream {control.folder.name!r} began from a batch run that is gone ({error});"
                " start with --anew, and --from-run latest if there is another"
            ) from None
    # While shards are spread anew (below) records of both numbers lie side by side; the least of all holds then too.
    whole = [n for n in {int(p["shards"]) for p in points} if all(i in progress for i in range(n))]
    start = resume(points, min(whole), begin, run) if whole else None
    if start is None:  # a shard has not saved one yet: nothing is known to be delivered by it
        control.clear_progress()
        return Start() if run is None else after_run(repo, runs.find(repo.data, Path(run).name))
    if any(int(p["shards"]) != shards for p in points):
        _reshard(control, start, points, shards)
    return start


def _same_definitions(groups: Mapping[str, FeatureGroup], progress: Mapping[int, Mapping[str, Any]]) -> None:
    present = {n: g.definition_hash() for n, g in groups.items()}
    for point in progress.values():
        for name, made_of in {**dict.fromkeys(present), **point["fingerprints"]}.items():
            if present.get(name) != made_of:
                what = "was redefined" if made_of and name in present else "was added" if name in present else "was removed"
                raise DataError(
                    f"group {name!r} {what} since the stream's resume point, which says nothing about the present one; run 'tandem batch'"
                    " and 'tandem apply', then start with --anew --from-run latest (or --anew alone: from the beginning of the topics)"
                )


def _reshard(control: Control, start: Start, points: list[Mapping[str, Any]], shards: int) -> None:
    """Another number of shards: every new one gets the least of the old ones' resume points. Safe to be killed anywhere in between."""
    partitions: dict[str, dict[str, dict[str, int]]] = {}
    for source, offsets in start.offsets.items():
        for partition, (needed, newest) in offsets.items():
            at = {"next": start.done[source][partition], "newest": newest, "needed": needed, "needed_newest": newest}
            partitions.setdefault(source, {})[str(partition)] = at
    for number in reversed(range(max(shards, len(points)))):  # so that the old ones are whole until the new ones are
        merged = {**points[0], "shard": number, "shards": shards, "emitted": dict(start.emitted), "partitions": partitions}
        control.save_progress(number, merged, durable=True)
    for path in (control.folder / "progress").rglob("shard-*.jsonl"):
        if int(path.stem.removeprefix("shard-")) >= shards:
            path.unlink(missing_ok=True)
