"""A subject's tiles among those that a stream saved: taken out, and the stream goes on from what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipelines.forgetting.key_values import column_holds
from pipelines.forgetting.subject import Subject
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.tile_store import TileFile, TileStore
from transforms.errors import DataError

__all__ = ["TilesFound", "tiles_have", "tiles_hold", "without_tiles"]


@dataclass
class TilesFound:
    """The tiles of a subject, a table per batch that had some; names of files written in the place of others, and of those deleted; and
    whether tiles of others hold its values somewhere."""

    gone: list[pa.Table] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    held: bool = False


def without_tiles(folder: Path, subject: Subject, dry_run: bool) -> TilesFound:
    """Write a stream's saved tiles without the subject's. Killed anywhere, the stream goes on from the files of before or from the new
    ones. Files that no checkpoint names go, and those that cannot be read: nobody would use them."""
    out, store, job_state = TilesFound(), TileStore(folder), JobState(folder)
    for shard in store.shards():
        made: dict[str, TileFile] = {}
        named = job_state.named_tiles(shard)
        for file in named:
            try:
                head, tiles = store.get(shard, file)
            except DataError:
                continue
            found = len(out.gone)
            kept: dict[str, list[pa.RecordBatch]] = {}
            for name, batches in tiles.items():
                for batch in batches:
                    mine = subject.rows(pa.Table.from_batches([batch]))
                    if mine.any():
                        out.gone.append(pa.Table.from_batches([batch]).filter(pa.array(mine)))
                    kept.setdefault(name, []).append(batch.filter(pa.array(~mine)))
                    out.held |= _holds(pa.Table.from_batches([kept[name][-1]]), subject)
            if len(out.gone) > found:
                if not dry_run:
                    made[file.name] = store.put(shard, file.kind, head, kept)
                out.rewritten.append(f"tiles/shard-{shard:04d}/{made[file.name].name if file.name in made else file.name}")
        if dry_run:
            continue
        job_state.rename_tiles(shard, made)
        keep = {file.name for file in job_state.named_tiles(shard) if _readable(store, shard, file)}
        for name in store.names(shard):
            if name not in keep:
                store.delete(shard, name)
                out.deleted.append(f"tiles/shard-{shard:04d}/{name}")
    return out


def _readable(store: TileStore, shard: int, file: TileFile) -> bool:
    try:
        store.head(shard, file)
    except DataError:
        return False
    return True


def _tables(folder: Path) -> Iterator[pa.Table]:
    store, job_state = TileStore(folder), JobState(folder)
    for shard in store.shards():
        for file in job_state.named_tiles(shard):
            try:
                tiles = store.get(shard, file)[1]
            except DataError:
                continue
            yield from (pa.Table.from_batches([batch]) for batches in tiles.values() for batch in batches)


def tiles_have(folder: Path, name: str) -> bool:
    """Whether the saved tiles of a stream have a column of this name."""
    return any(name in table.column_names for table in _tables(folder))


def tiles_hold(folder: Path, subject: Subject) -> bool:
    """Whether the saved tiles of a stream hold all values of the subject somewhere."""
    return any(_holds(table, subject) for table in _tables(folder))


def _holds(table: pa.Table, subject: Subject) -> bool:
    return all(any(column_holds(column, name, value) for column in table.columns) for name, value in subject.keys)
