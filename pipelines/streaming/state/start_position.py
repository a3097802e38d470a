"""Where a stream starts, and why: at its checkpoint, at the end of a batch run, or at the beginning of its topics.

At its checkpoint it goes on with the tiles that it saved, and reads from where they end. Without them (none were saved, they are damaged,
or the number of shards is another one) it reads its topics again from the first record that an open window needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.lake import runs, shared
from pipelines.lake.graphs import carried_over, since
from pipelines.project.repository import Repo
from pipelines.streaming.state.checkpoint_records import Checkpoint, Checkpoints, PartitionCheckpoint
from pipelines.streaming.state.initial_tiles import batch_run_end, run_here
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.saved_tiles import ShardStart, TileHead, files_of, usable
from pipelines.streaming.state.tile_store import TileStore
from transforms.definitions import FeatureGroup
from transforms.errors import ConfigError, DataError
from transforms.fold import PartitionState
from transforms.instants import to_minute
from transforms.lateness import NEVER

__all__ = ["StartPosition", "after_run", "check_same_definitions", "choose_start", "from_checkpoints", "run_of", "with_saved_tiles"]


Past = tuple[tuple[int, ...], tuple[int, int, int]]


@dataclass(frozen=True)
class StartPosition:
    """``output_watermark``: group -> boundary up to which rows are out (None: none are). ``offsets``: source -> partition -> (first offset
    to read, newest event time before it). ``done``: source -> partition -> offset before which all was delivered. ``begin``: events
    before it are the batch run's (microseconds). ``run``: the folder of that run, whose tiles fill the windows; ``why`` for people.
    ``past``: source -> partition -> (the leaps before the first offset, of how many records before ``done`` how many were rejects and
    how many too late).

    ``saved``: shard -> the tiles that it goes on from; all shards or none.

    A partition that is not there is read from its beginning.
    """

    output_watermark: Mapping[str, int | None] = field(default_factory=dict)
    offsets: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    done: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)
    past: Mapping[str, Mapping[int, Past]] = field(default_factory=dict)
    begin: int = NEVER
    run: str | None = None
    saved: Mapping[int, ShardStart] = field(default_factory=dict)
    why: str = "the beginning of the topics"

    @property
    def begins_empty(self) -> bool:
        """Whether nothing is known of what was before the topics."""
        return self.run is None and not self.offsets

    @property
    def begins_at_run(self) -> bool:
        """Whether a batch run's end is where it begins, and not a checkpoint of its own."""
        return self.run is not None and not self.offsets


def from_checkpoints(checkpoints: Iterable[Checkpoint], shards: int, begin: int, run: str | None) -> StartPosition | None:
    """The start that the checkpoints of all ``shards`` (as they were then) give; None unless every shard has one.

    The least over the shards holds for all, so that their number may change.
    """
    points = list(checkpoints)
    if len(points) < shards or not points:
        return None
    output_watermark: dict[str, int | None] = {}
    offsets: dict[str, dict[int, tuple[int, int]]] = {}
    done: dict[str, dict[int, int]] = {}
    past: dict[str, dict[int, Past]] = {}
    for name in points[0]["output_watermark"]:
        values = [p["output_watermark"][name] for p in points]
        output_watermark[name] = None if None in values else min(v for v in values if v is not None)
    for source in points[0]["partitions"]:
        # A partition that not every shard has heard of was delivered by none of these: it is read from its beginning.
        common = set.intersection(*(set(p["partitions"][source]) for p in points))
        for text in sorted(common, key=int):
            each = [p["partitions"][source][text] for p in points]
            first = min(each, key=lambda e: e["needed"])
            offsets.setdefault(source, {})[int(text)] = (first["needed"], first["needed_newest"])
            last = min(each, key=lambda e: e["next"])
            done.setdefault(source, {})[int(text)] = last["next"]
            records, rejected, late = last.get("judged", (0, 0, 0))  # checkpoints of before have none
            past.setdefault(source, {})[int(text)] = (tuple(first.get("needed_leaps", ())), (records, rejected, late))
    topics = dict(points[0].get("topics", {}))
    return StartPosition(output_watermark, offsets, done, topics, past, begin, run, why="the checkpoint of the run before")


def choose_start(repo: Repo, job_state: JobState, shards: int, from_run: str | None = None, reset: bool = False) -> StartPosition:
    """Where a stream of the repository's groups starts.

    The checkpoint counts if there is one, unless ``reset``, or unless ``from_run`` names another run than the one it began from
    (``latest`` counts only where there is no checkpoint). Raises DataError for a checkpoint that the present definitions cannot go
    on from, and for a run that does not fit them; ConfigError for one that is not there.
    """
    if reset:
        job_state.clear_checkpoints()
    checkpoints = job_state.load_checkpoints()
    before = {None if (run := point.get("run")) is None else Path(run).name for point in checkpoints.values()}
    wanted = None if from_run in (None, "latest") else runs.find(repo.data, str(from_run))
    if checkpoints and (wanted is None or before == {wanted.id}):
        return _resumed(repo, job_state, checkpoints, shards)
    if checkpoints:
        job_state.clear_checkpoints()
    if from_run is None:
        return StartPosition()
    return after_run(repo, wanted or _latest(repo))


def run_of(repo: Repo, graphs: Mapping[str, str]) -> runs.Run | None:
    """The newest complete batch run of exactly these graphs (group -> fingerprint), whose history a stream could go on from."""
    for run in reversed(runs.list_runs(repo.data)):
        if run.kind == "batch" and run.status == "complete" and dict(run.record.fingerprints) == dict(graphs):
            return run
    return None


def _latest(repo: Repo) -> runs.Run:
    """The newest complete batch run; one of some groups alone (``--group``) is passed over where another one made all of them."""
    complete = [r for r in runs.list_runs(repo.data) if r.kind == "batch" and r.status == "complete"]
    if not complete:
        raise ConfigError("--from-run latest: there is no complete batch run; run 'tandem batch' first, or leave it out")
    whole = [r for r in complete if repo.groups.keys() <= r.record.definitions.keys()]
    return (whole or complete)[-1]


def after_run(repo: Repo, run: runs.Run) -> StartPosition:
    """The start that goes on where a complete batch run ended. Raises DataError if it cannot be gone on from."""
    if run.kind != "batch" or run.status != "complete":
        raise DataError(f"--from-run {run.id}: it is a {run.kind} run and {run.status}; name a complete batch run")
    for name, group in repo.groups.items():
        if name not in run.record.definitions:
            raise DataError(f"--from-run {run.id}: it made no rows of group {name!r}; run 'tandem batch' of all groups")
        if since(run.record.definitions.get(name), group) is None:
            raise DataError(f"--from-run {run.id}: group {name!r} was redefined since; run 'tandem batch' again")
    shared.have_run(repo.data, run.id)
    end = batch_run_end(run.folder)
    upto = {n: end - end % g.hop_us for n, g in repo.groups.items()}
    return StartPosition(output_watermark=upto, begin=end, run=str(run.folder), why=f"the end of batch run {run.id}, {to_minute(end)}")


def _resumed(repo: Repo, job_state: JobState, checkpoints: Checkpoints, shards: int) -> StartPosition:
    check_same_definitions(repo, checkpoints)
    points = list(checkpoints.values())
    run, begin = points[0].get("run"), StartPosition().begin
    if run is not None:
        try:
            run = str(run_here(repo.data, run))
            begin = batch_run_end(Path(run))
        except DataError as error:
            raise DataError(
                f"stream {job_state.folder.name!r} began from a batch run that is gone ({error});"
                " start with --reset, and --from-run latest if there is another"
            ) from None
    # While shards are spread anew (below) records of both numbers lie side by side; the least of all holds then too.
    whole = [n for n in {int(p["shards"]) for p in points} if all(i in checkpoints for i in range(n))]
    start = from_checkpoints(points, min(whole), begin, run) if whole else None
    if start is None:  # a shard has not saved one yet: nothing is known to be delivered by it
        job_state.clear_checkpoints()
        return StartPosition() if run is None else after_run(repo, runs.find(repo.data, Path(run).name))
    if any(int(p["shards"]) != shards for p in points):
        _reshard(job_state, start, points, shards)
        return start
    return with_saved_tiles(start, repo.groups, job_state, checkpoints, shards)


def with_saved_tiles(
    start: StartPosition, groups: Mapping[str, FeatureGroup], job_state: JobState, checkpoints: Checkpoints, shards: int
) -> StartPosition:
    """The start, going on from saved tiles where every shard of the ``checkpoints`` that it follows from has some that are whole. Says what
    was found damaged."""
    store = TileStore(job_state.folder)
    saved: dict[int, ShardStart] = {}
    known: list[Mapping[str, Mapping[int, PartitionState]]] = []
    for number in range(shards):
        checkpoint = checkpoints[number]
        head: TileHead | None = None
        try:
            named = files_of(checkpoint)
        except DataError as error:
            named, wrong = [], [str(error)]
        else:
            named, head, wrong = usable(store, groups, number, shards, named)
            wrong = [f"{line}; {'continuing from the previous ones' if named else 'reading the topics again'}" for line in wrong]
        for line in wrong:
            job_state.say(line)
        if head is None:
            return start
        own = saved[number] = ShardStart.of(checkpoint, named)
        known.append({s: {n: at.onward(own.needed.get((s, n))) for n, at in each.items()} for s, each in head["partitions"].items()})
    offsets = {s: dict(each) for s, each in start.offsets.items()}
    past = {s: dict(each) for s, each in start.past.items()}
    for source in dict.fromkeys(s for each in known for s in each):
        for n in sorted({n for each in known for n in each.get(source, {})}):
            if n not in offsets.get(source, {}):  # some shard has never heard of it, and nobody knows where it would begin
                return start
            each_at = [p[source].get(n) for p in known]
            if None not in each_at:
                first = min((at for at in each_at if at is not None), key=lambda at: at.expected)
                offsets[source][n] = (first.expected, first.newest)
                past[source][n] = (first.leaps, past[source][n][1])
    return replace(start, offsets=offsets, past=past, saved=saved, why=f"{start.why}, with its windows")


def check_same_definitions(repo: Repo, checkpoints: Checkpoints) -> None:
    """Raises DataError, one line, where the groups are not those of the checkpoints, or redefined since otherwise than to accept more."""
    present = {n: g.definition_hash() for n, g in repo.groups.items()}
    for point in checkpoints.values():
        for name, made_of in {**dict.fromkeys(present), **point["fingerprints"]}.items():
            if not (name in present and made_of and carried_over(repo.data, repo.groups[name], made_of) is not None):
                what = "was redefined" if made_of and name in present else "was added" if name in present else "was removed"
                raise DataError(
                    f"group {name!r} {what} since the stream's checkpoint, which says nothing about the present one; run 'tandem batch'"
                    " and 'tandem apply', then start with --reset --from-run latest (or only --reset: from the beginning of the topics)"
                )


def _reshard(job_state: JobState, start: StartPosition, points: list[Checkpoint], shards: int) -> None:
    """Another number of shards: every new one gets the least of the old ones' checkpoints. Safe to be killed anywhere in between."""
    partitions: dict[str, dict[str, PartitionCheckpoint]] = {}
    for source, offsets in start.offsets.items():
        for partition, (needed, newest) in offsets.items():
            leaps, judged = start.past[source][partition]
            at: PartitionCheckpoint = {
                "next": start.done[source][partition],
                "newest": newest,
                "needed": needed,
                "needed_newest": newest,
                "needed_leaps": list(leaps),
                "judged": list(judged),
            }
            partitions.setdefault(source, {})[str(partition)] = at
    for number in reversed(range(max(shards, len(points)))):  # so that the old ones are whole until the new ones are
        merged: Checkpoint = {
            **points[0],
            "shard": number,
            "shards": shards,
            "output_watermark": dict(start.output_watermark),
            "partitions": partitions,
            "tiles": [],
        }
        job_state.save_checkpoint(number, merged, durable=True)
    job_state.forget_shards(shards)
