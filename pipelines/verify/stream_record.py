"""What a stream left behind: how far each shard came, the rows that it delivered, the events that it found too late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake.graphs import carried_over
from pipelines.streaming.state.checkpoint_records import Checkpoints, is_stream
from pipelines.streaming.state.initial_tiles import batch_run_end, run_here
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import read_late, read_rows, scan_rows
from pipelines.streaming.state.stream_link import link_of
from pipelines.streaming.state.taken_segments import Taken, taken_of
from pipelines.verify.causes import Position
from transforms.definitions import CREATED, FeatureGroup
from transforms.errors import DataError, TandemError
from transforms.instants import instant, micros_of
from transforms.lateness import NEVER

__all__ = ["FAR", "NothingToVerifyError", "StreamRecord", "check_begun", "emission_stamps", "load_record", "position_of"]

Int = npt.NDArray[np.int64]
FAR = 2**62
"""After every moment (microseconds)."""


class NothingToVerifyError(DataError):
    """The stream does not exist, or has done nothing yet that could be compared: that is no failure of a verification."""


@dataclass(frozen=True)
class StreamRecord:
    """One stream, as of one look at its files.

    ``positions``: group -> how far its shards were; ``rows``: group -> every delivered row in order (of :func:`load_record`
    they are read anew at each look, so that no more than one group's need be in memory); ``late``: source -> every event noted as too
    late; ``begin``: events before it are the batch run's (microseconds; NEVER: there was none); ``run``: that run's id.
    """

    name: str
    positions: Mapping[str, Position]
    rows: Mapping[str, pa.Table]
    late: Mapping[str, pa.Table]
    begin: int = NEVER
    run: str | None = None
    ahead: int = 0
    """Rows that were delivered after the checkpoints that the positions are taken from: left out of ``rows``."""
    saved: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    """Per shard when its checkpoint was saved (microseconds of the wall clock)."""
    skips: Mapping[tuple[str, int], frozenset[int]] = field(default_factory=dict)
    """(topic, partition) -> the offsets that a person had left out."""
    taken: Callable[[], Taken] = Taken
    """What was vacuumed of its log; to be asked for after rows were read, as it is written before any go."""

    def readable(self, rows: pa.Table, group: FeatureGroup, stamps: Mapping[int, Int]) -> Int:
        """For each delivered row of a group a moment by which the online store had it: FAR if none is known. ``stamps``: by shard the
        moments at which anything was emitted (:func:`emission_stamps`).

        A shard delivers one emission after the other: what is in the row log was in the store before the next emission was stamped. Of a
        stream that is behind an emission is all that waited to go online together, which bears one stamp.
        """
        shards = self.positions[group.name].shard(rows, group)
        created = rows.column(CREATED).cast(pa.int64()).to_numpy()
        out = np.full(rows.num_rows, FAR, np.int64)
        for number, saved in enumerate(self.saved.tolist()):
            known, mine = np.union1d(stamps.get(number, out[:0]), [saved]), shards == number
            out[mine] = np.append(known, FAR)[np.searchsorted(known, created[mine], side="right")]
        return out

    def upto(self, groups: Mapping[str, FeatureGroup]) -> dict[str, dict[int, int]]:
        """source -> partition -> the offset before which some shard folded everything."""
        out: dict[str, dict[int, int]] = {}
        for name, group in groups.items():
            for partition, limits in self.positions[name].next.items():
                each = out.setdefault(group.source.name, {})
                each[partition] = max(each.get(partition, 0), int(limits.max()))
        return out

    @property
    def output_watermark(self) -> int:
        """The greatest boundary that any shard emitted (microseconds; NEVER: none)."""
        return _furthest(self.positions)


def position_of(checkpoints: Checkpoints, group: FeatureGroup) -> Position:
    """How far the shards of a group were, by the checkpoints of all of them. Raises DataError where one is missing."""
    shards = max(int(p["shards"]) for p in checkpoints.values())
    if set(checkpoints) < set(range(shards)):
        missing = min(set(range(shards)) - set(checkpoints))
        raise NothingToVerifyError(
            f"shard {missing} of {shards} has not saved a checkpoint yet; let the stream run for a moment, then verify again"
        )
    output_watermark = np.full(shards, NEVER, np.int64)
    limits: dict[int, Int] = {}
    for number in range(shards):
        point = checkpoints[number]
        boundary = point["output_watermark"].get(group.name)
        output_watermark[number] = NEVER if boundary is None else boundary
        for partition, at in point["partitions"].get(group.source.name, {}).items():
            limits.setdefault(int(partition), np.zeros(shards, np.int64))[number] = at["next"]
    return Position(output_watermark, limits)


@dataclass(frozen=True)
class _Came:
    """How far a stream came, by its checkpoints; as in :class:`StreamRecord`."""

    job_state: JobState
    positions: Mapping[str, Position]
    begin: int
    run: str | None
    saved: Int


def _came(folder: Path, name: str, groups: Mapping[str, FeatureGroup]) -> _Came:
    if (link := link_of(folder)) is not None and link.there():
        JobState(folder).have_checkpoints()
    if not is_stream(folder):
        known = sorted(p.name for p in folder.parent.glob("*") if is_stream(p))
        raise NothingToVerifyError(
            f"there is no stream called {name!r} below {folder.parent}"
            + (f"; there is {', '.join(known)}: name it with --name" if known else "; run 'tandem stream' first")
        )
    job_state = JobState(folder)
    records = job_state.load_checkpoint_records()
    checkpoints = {shard: r["checkpoint"] for shard, r in records.items()}
    if not checkpoints:
        raise NothingToVerifyError(f"stream {name!r} has not saved a checkpoint yet; let it run for a moment, then verify again")
    redefined = [
        n
        for n, g in groups.items()
        for made_of in {p["fingerprints"].get(n) for p in checkpoints.values()}
        if made_of is not None and carried_over(folder.parents[1], g, made_of) is None
    ]
    if redefined:
        raise DataError(
            f"group {redefined[0]!r} was redefined since stream {name!r} ran; verify with the definitions it ran with, or start it over"
        )
    run = next(iter(checkpoints.values())).get("run")
    begin = NEVER if run is None else batch_run_end(run_here(folder.parents[1], run))
    positions = {n: position_of(checkpoints, g) for n, g in groups.items()}
    if _furthest(positions) <= begin:
        after = "its beginning" if begin == NEVER else f"{instant(begin):%Y-%m-%d %H:%M}"
        raise NothingToVerifyError(f"stream {name!r} has emitted nothing yet after {after}; let it run, then verify again")
    saved = np.array([micros_of(datetime.fromisoformat(records[n]["saved"])) for n in sorted(records)], np.int64)
    return _Came(job_state, positions, begin, None if run is None else Path(run).name, saved)


def _furthest(positions: Mapping[str, Position]) -> int:
    return max((int(p.output_watermark.max()) for p in positions.values()), default=NEVER)


def check_begun(folder: Path, name: str, groups: Mapping[str, FeatureGroup]) -> None:
    """Raise NothingToVerifyError, one line, where :func:`load_record` would; no row is read. Whatever else is wrong with the stream is the
    verification's to find."""
    try:
        _came(folder, name, groups)
    except NothingToVerifyError:
        raise
    except (TandemError, OSError):
        return


def load_record(folder: Path, name: str, groups: Mapping[str, FeatureGroup]) -> StreamRecord:
    """The record of the stream whose folder is ``folder`` (``data/stream/<name>``). Raises DataError, one line, and of that
    NothingToVerifyError where the stream has emitted nothing.

    A stream that runs, or was killed, has delivered more than its checkpoints vouch for: rows that were made after a shard's
    checkpoint was saved are left out (``ahead``: how many).
    """
    came = _came(folder, name, groups)
    ahead = 0
    for n, group in groups.items():
        for rows in scan_rows(folder, n, [*group.entity.keys, CREATED]):
            ahead += rows.num_rows - _before(rows, group, came.positions[n], came.saved).num_rows
    late = {s: read_late(folder, source) for s, source in {g.source.name: g.source for g in groups.values()}.items()}
    return StreamRecord(
        name, came.positions, _Vouched(folder, groups, came), late, came.begin, came.run, ahead, came.saved, came.job_state.skips(),
        partial(taken_of, folder),
    )  # fmt: skip


@dataclass(frozen=True)
class _Vouched(Mapping[str, pa.Table]):
    """Group -> the rows that the checkpoints vouch for, read at each look."""

    folder: Path
    groups: Mapping[str, FeatureGroup]
    came: _Came

    def __getitem__(self, name: str) -> pa.Table:
        group = self.groups[name]
        return _before(read_rows(self.folder, group), group, self.came.positions[name], self.came.saved)

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


def emission_stamps(folder: Path, positions: Mapping[str, Position], groups: Mapping[str, FeatureGroup]) -> dict[int, Int]:
    """By shard the moments (microseconds, ascending) at which the stream in ``folder`` emitted rows of any group."""
    found: dict[int, list[Int]] = {}
    for name, group in groups.items():
        for rows in scan_rows(folder, name, [*group.entity.keys, CREATED]):
            shards, stamps = positions[name].shard(rows, group), rows.column(CREATED).cast(pa.int64()).to_numpy()
            for number in np.unique(shards).tolist():
                found.setdefault(number, []).append(np.unique(stamps[shards == number]))
    return {number: np.unique(np.concatenate(parts)) for number, parts in found.items()}


def _before(rows: pa.Table, group: FeatureGroup, position: Position, saved: Int) -> pa.Table:
    """The rows that were made before their shard's checkpoint was saved: the next ones are made after that."""
    if not rows.num_rows or CREATED not in rows.schema.names:
        return rows
    created = rows.column(CREATED).cast(pa.int64()).to_numpy()
    return rows.filter(pa.array(created < saved[position.shard(rows, group)]))
