"""``tandem vacuum``: what is old, beyond a count, and needed by nothing any more.

**Never taken**: what is younger than the age, or among the newest of its kind; a model that is champion, was one, or is challenger; the
training set of a model that stays; a run that a run, a training set or a stream that stays names; a batch run of the applied graphs that
no newer one covers whole; what runs now. What is needed is found first, to the end of the chain, and only then is anything taken; should a
file that says what is needed not be readable, nothing is. What is needed of a stream's log is found in the log itself, by
:mod:`pipelines.forgetting.stream_segments`. While something is taken no run begins, and none is under way but of those
that last (streams, servers, watches), whose needs are among the above. On an object store the same holds of all machines: the runs' lease
is held meanwhile, and what goes is looked up and deleted there, without having copies of it. Of a stream's log the columns that it is
judged by are read there (keys, event timestamps, fingerprints), in a dry run as well: those of all segments of a group of which one may go.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict

from pipelines.forgetting.store_things import store_checkpoints, store_things
from pipelines.forgetting.stream_segments import segment_of, spared_segments
from pipelines.forgetting.things import UNLISTED, Thing, folder_things
from pipelines.lake import layout, runs
from pipelines.lake.graphs import applied_graphs
from pipelines.project.repository import Repo
from pipelines.registry.alias_file import current, models_of
from pipelines.streaming.state.checkpoint_records import Checkpoint, checkpoints_of, record_of
from pipelines.streaming.state.taken_segments import Taken, note_taken, taken_of
from serving.object_store.cache import cache_of
from transforms.errors import DataError

__all__ = ["TakenThing", "Thing", "candidates", "vacuum"]

_LASTING = ("stream", "serve", "watch", "replay", "demo")
"""Kinds of runs that do not hinder: a demo's steps are runs of their own."""


def candidates(repo: Repo) -> tuple[list[Thing], set[str]]:
    """Everything that may go, and the names of what is needed. Raises DataError for a manifest that cannot be read, ModelError."""
    data, cache = repo.data, cache_of(repo.data)
    if broken := runs.damaged(data):
        raise DataError(f"nothing is removed: what {broken[0]}; repair or delete it first")
    things, needed = list(folder_things(repo) if cache is None else store_things(repo, cache)), set[str]()
    for model in models_of(data):
        aliases = current(layout.model(data, model))
        needed |= {f"{model}/{version}" for version in (*aliases.champions, aliases.champion, aliases.challenger)}
    needed |= _batches_in_use(data)
    needed |= {run.id for run in runs.list_runs(data) if run.status in runs.UNDER_WAY}
    for _, text in _checkpoints(data) if cache is None else store_checkpoints(cache):
        needed |= {t.name for t in things if t.kind.startswith("runs/") and t.name in text}
    return things, needed


def _checkpoints(data: Path) -> Iterator[tuple[str, str]]:
    """What the checkpoints of streams say: the stream and the text of a file."""
    for folder in layout.streams(data).glob("*"):
        for path in checkpoints_of(folder).rglob("*.jsonl"):
            yield folder.name, path.read_text(errors="replace")


def _spared(repo: Repo, things: list[Thing], going: list[Thing]) -> tuple[set[str], dict[str, Taken]]:
    """Of the segments of streams among what is going: the names of those that are needed; and stream -> what goes of its log."""
    named = {t.name for t in going}
    segments = [s for t in things if t.kind.startswith("stream/") and (s := segment_of(t.name, t.opened)) is not None]
    streams = {s.stream for s in segments if s.name in named}
    if not streams:
        return set(), {}
    data, cache, points = repo.data, cache_of(repo.data), defaultdict[str, list[Checkpoint]](list)
    for name in streams if cache is None else ():
        for path in checkpoints_of(layout.stream(data, name)).rglob("*.jsonl"):
            points[name].append(record_of(path)["checkpoint"])
    for name, text in () if cache is None else store_checkpoints(cache):
        record = json.loads(text)["record"] if name in streams else None
        points[name] += [] if record is None else [record["checkpoint"]]
    mine = [s for s in segments if s.stream in streams]
    return spared_segments(repo.groups, applied_graphs(data), points, lambda n: taken_of(layout.stream(data, n)), mine, named)


def _batches_in_use(data: Path) -> set[str]:
    """The complete batch runs of applied graphs but for those that a newer one of the same graphs covers whole."""
    applied, out, later = applied_graphs(data), set[str](), list[tuple[dict[str, str], list[str]]]()
    for run in reversed([r for r in runs.list_runs(data) if r.kind == "batch" and r.status == "complete"]):
        mine: dict[str, str] = dict(run.record.fingerprints)
        if not any(applied.get(group) == fingerprint for group, fingerprint in mine.items()):
            continue
        span = [str(t) for t in (run.head.range or ())]
        whole = any(mine == theirs and len(span) == 2 == len(s) and _within(span, s) for theirs, s in later)
        if not whole:
            out.add(run.id)
        later.append((mine, span))
    return out


def _within(inner: list[str], outer: list[str]) -> bool:
    (a, b), (c, d) = ([datetime.fromisoformat(t) for t in each] for each in (inner, outer))
    return c <= a and b <= d


class TakenThing(TypedDict):
    """What went: ``made`` is UTC in ISO 8601."""

    kind: str
    name: str
    made: str
    bytes: int


def vacuum(
    repo: Repo, now: datetime, older_than: timedelta, keep: int = 10, kinds: tuple[str, ...] = (), dry_run: bool = False
) -> list[TakenThing]:
    """Take what is older than ``older_than``, not among the newest ``keep`` of its kind, and not needed; what went, with bytes.

    ``kinds``: only these (``runs``, ``training``, ``requests``, ``verify``, ``monitor``, ``models``, ``stream``). Raises DataError,
    ModelError, and takes nothing then.
    """
    with nullcontext() if dry_run else runs.RunStore(repo.data).alone(_LASTING):
        return _vacuum(repo, now, older_than, keep, kinds, dry_run)


def _vacuum(repo: Repo, now: datetime, older_than: timedelta, keep: int, kinds: tuple[str, ...], dry_run: bool) -> list[TakenThing]:
    things, needed = candidates(repo)
    by_kind: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        by_kind[thing.kind].append(thing)
    going: list[Thing] = []
    for kind, each in by_kind.items():
        newest = {t.name for t in sorted(each, key=lambda t: (t.made, t.name))[-keep:]} if keep and kind != UNLISTED else set[str]()
        chosen = not kinds or kind.partition("/")[0] in kinds
        going += [t for t in each if chosen and now - t.made > older_than and t.name not in newest and t.name not in needed]
    while True:  # what a thing that stays names, stays
        gone = {t.name for t in going}
        text = "\n".join(t.text for t in things if t.name not in gone)
        spared = {name for name in gone if name in text}
        if not spared:
            break
        going = [t for t in going if t.name not in spared]
    needed_of_streams, taken = _spared(repo, things, going)
    going = [t for t in going if t.name not in needed_of_streams]
    for name, what in () if dry_run else taken.items():
        note_taken(layout.stream(repo.data, name), what)  # before it goes: whoever compares with the log is not to miss it
    out: list[TakenThing] = []
    for thing in sorted(going, key=lambda t: (t.kind, t.made, t.name)):
        out.append({"kind": thing.kind, "name": thing.name, "made": thing.made.isoformat(), "bytes": thing.size})
        if not dry_run:
            thing.take()
    return out
