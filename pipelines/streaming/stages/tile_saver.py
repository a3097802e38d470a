"""Saves the tiles of a worker's shards while the stream goes on, so that the next start need not read the longest window again.

Every few seconds what was added to a shard since is written as a delta; now and then all of it as a snapshot. What is written is taken at
one moment between two folds and cannot change (Arrow), so a thread of its own merges, compresses and forces it to disk, and the stream
waits for nothing; the checkpoints after that name it. A crash anywhere leaves the files that the last checkpoint names, as files are only
deleted once no checkpoint on disk does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.saved_tiles import files_of, head_of
from pipelines.streaming.state.tile_store import Kind, TileFile, TileStore
from transforms.aggregates import merge
from transforms.definitions import FeatureGroup
from transforms.errors import DataError, TandemError
from transforms.fold import Shard
from transforms.tile_tiers import column_of

__all__ = ["SAVE_SECONDS", "TileSaver"]

SAVE_SECONDS = 5.0
"""How often a shard is saved at most: what came since then a start reads again."""
MOST_DELTAS = 32
"""So many deltas become one."""
LEAST_BYTES = 4 << 20
"""Deltas become a snapshot where they are larger than half of the one before, and than this."""


@dataclass
class _Saving:
    """What is known of a shard's files. ``files``: those that a checkpoint is to name; ``added``: group -> tiles that are in none of them;
    ``whole``: the next one holds everything, as what it would be a delta to is not known."""

    files: list[TileFile] = field(default_factory=list)
    added: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    whole: bool = True
    positions: Any = None
    saved: float = float("-inf")
    job: Future[list[TileFile]] | None = None

    @property
    def deltas(self) -> list[TileFile]:
        """Those after the newest snapshot."""
        return self.files[_newest(self.files) + 1 :]


def _newest(files: Sequence[TileFile]) -> int:
    """Where the newest snapshot is; -1 for nowhere."""
    return max((i for i, file in enumerate(files) if file.kind != "delta"), default=-1)


class TileSaver:
    """Of one job in one process; each shard is used by one thread at a time. ``every``: seconds between two files of a shard."""

    def __init__(self, job_state: JobState, shards: int) -> None:
        self.job_state, self.shards, self.every = job_state, shards, SAVE_SECONDS
        self.store = TileStore(job_state.folder)
        self._of: dict[int, _Saving] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tiles")
        self._failing = False

    def begins(self, number: int, files: Sequence[TileFile] = ()) -> None:
        """A shard goes on from these files; without any it begins with no file of its own."""
        self._forget(number)
        self._of[number] = _Saving(list(files), whole=not files)

    def restored(self, number: int) -> None:
        """The engine brought back a state of a shard. What its last checkpoint names stays named until the shard is saved as it is now."""
        self._forget(number)
        with suppress(DataError):
            self._of[number] = _Saving(files_of(self.job_state.load_checkpoints().get(number, {})))

    def _forget(self, number: int) -> None:
        before = self._of.pop(number, None)
        if before is not None and before.job is not None:
            before.job.cancel()

    def added(self, number: int, tiles: Mapping[str, pa.RecordBatch]) -> None:
        """Tiles were added to a shard."""
        into = self._of.setdefault(number, _Saving()).added
        for name, batch in tiles.items():
            if batch.num_rows:
                into.setdefault(name, []).append(batch)

    def save(self, number: int, shard: Shard, now: bool = False) -> tuple[list[TileFile], bool]:
        """Save a shard if it is time; the files that its checkpoint is to name, and whether there is nothing to wait for: they hold all
        that the shard does, or cannot be written. ``now``: as it is now, before this returns."""
        own = self._of.setdefault(number, _Saving())
        self._finish(own, wait=now)
        positions = {(s, n): at.expected for s, each in shard.partitions.items() for n, at in each.items()}
        changed = own.whole or bool(own.added) or positions != own.positions
        if changed and own.job is None and (now or time.monotonic() - own.saved >= self.every):
            own.saved, own.positions = time.monotonic(), positions
            own.job = self._begin(number, shard, own)
            self._finish(own, wait=now)
        settled = own.job is None and not own.whole and not own.added and positions == own.positions
        return list(own.files), settled or self._failing

    def _begin(self, number: int, shard: Shard, own: _Saving) -> Future[list[TileFile]]:
        """Take the shard as it is at this moment, and write it in the background."""
        head = head_of(shard, number, self.shards)
        # Its partitions go on; what is written must not.
        head["partitions"] = {s: {n: _copy(at) for n, at in each.items()} for s, each in head["partitions"].items()}
        horizon = {n: shard.horizon(g) for n, g in shard.groups.items()}
        files, added, own.added = list(own.files), own.added, {}
        at, size = _newest(files), sum(file.size for file in own.deltas)
        if own.whole or at < 0 or size > max(LEAST_BYTES, files[at].size // 2):
            kind: Kind = "base" if own.whole else "snapshot"
            own.whole = False
            tiles = {n: [part.tiles for part in t.parts] for n, t in shard.tiles.items()}
            return self._pool.submit(self._snapshot, number, kind, head, tiles, added, dict(shard.groups), horizon, files)
        fold = len(own.deltas) >= MOST_DELTAS
        return self._pool.submit(self._delta, number, head, added, dict(shard.groups), horizon, files, fold)

    def _snapshot(
        self,
        number: int,
        kind: Kind,
        head: Any,
        tiles: Mapping[str, list[pa.RecordBatch]],
        added: Mapping[str, list[pa.RecordBatch]],
        groups: Mapping[str, FeatureGroup],
        horizon: Mapping[str, int],
        files: list[TileFile],
    ) -> list[TileFile]:
        """All tiles in one file, behind a delta: so the files before it lead to the same, should it be damaged. What came before the
        snapshot before it is not needed any more."""
        before = files
        if kind == "snapshot":
            files = [*files, self.store.put(number, "delta", head, _merged(_alive(added, horizon), groups))]
        kept = {name: [part for batch in batches if (part := _from(batch, horizon[name])).num_rows] for name, batches in tiles.items()}
        made = self.store.put(number, kind, head, kept)
        return self._cleaned(number, before, [*files[max(_newest(files), 0) :], made])

    def _delta(
        self,
        number: int,
        head: Any,
        added: Mapping[str, list[pa.RecordBatch]],
        groups: Mapping[str, FeatureGroup],
        horizon: Mapping[str, int],
        files: list[TileFile],
        fold: bool,
    ) -> list[TileFile]:
        """What was added in one file; ``fold``: together with the deltas before it."""
        tiles, kept = _alive(added, horizon), files
        if fold:
            at = _newest(files) + 1
            for file in files[at:]:
                for name, batches in self.store.get(number, file)[1].items():
                    tiles.setdefault(name, []).extend(_from(batch, horizon[name]) for batch in batches)
            kept = files[:at]
        made = self.store.put(number, "delta", head, _merged(tiles, groups))
        return self._cleaned(number, files, [*kept, made])

    def _cleaned(self, number: int, before: list[TileFile], files: list[TileFile]) -> list[TileFile]:
        """The files, when others were deleted; those ``before`` may be in a checkpoint that is on its way."""
        self.store.clean(number, self.job_state.checkpoint_bytes(number), [*before, *files])
        return files

    def _finish(self, own: _Saving, wait: bool) -> None:
        """Take over what the background has written."""
        if own.job is None or not (wait or own.job.done()):
            return
        job, own.job = own.job, None
        try:
            own.files = job.result()
            self._failing = False
        except Exception as error:  # whatever it is, the stream goes on: a start reads more then
            own.whole, own.added, own.positions = True, {}, None
            if not self._failing:
                line = str(error) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
                self.job_state.say(f"tiles are not saved now, and a start would read more of the topics again: {line}")
            self._failing = True

    def close(self) -> None:
        """Begin nothing any more. What is being written is not waited for: no checkpoint names it."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _copy(at: Any) -> Any:
    """A partition's state as it is; its segments and corrections are replaced as wholes, and their containers are not."""
    values = dict(vars(at))
    values |= {name: type(value)(value) for name, value in values.items() if isinstance(value, list | dict)}
    return type(at)(**values)


def _alive(tiles: Mapping[str, list[pa.RecordBatch]], horizon: Mapping[str, int]) -> dict[str, list[pa.RecordBatch]]:
    """Without the tiles that no row to come needs: of a stream that catches up, nearly all of a short window's."""
    return {name: [_from(batch, horizon[name]) for batch in batches] for name, batches in tiles.items()}


def _merged(tiles: Mapping[str, list[pa.RecordBatch]], groups: Mapping[str, FeatureGroup]) -> dict[str, list[pa.RecordBatch]]:
    return {name: [merge(batches, groups[name])] for name, batches in tiles.items()}


def _from(batch: pa.RecordBatch, horizon: int) -> pa.RecordBatch:
    """The tiles that start at ``horizon`` or later."""
    starts = column_of(batch, "tile_start")
    return batch if not len(starts) or starts.min() >= horizon else batch.filter(pa.array(starts >= horizon))
