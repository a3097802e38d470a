"""The saved tiles of a stream's shards: what a start can go on from, so that it reads on and not the longest window again.

A checkpoint names a row of files (:class:`TileFile`): a snapshot and the deltas after it, with the snapshot before those and its deltas in
front, should the newer one be damaged. Each file's head says what the shard knew of its partitions when it was written (:func:`head_of`);
so any beginning of the row that holds together is a state to go on from, and what lies between it and the checkpoint is read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import pyarrow as pa

from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.tile_store import TileFile, TileStore
from transforms.aggregates import merge, tile_schema
from transforms.definitions import FeatureGroup
from transforms.errors import DataError
from transforms.fold import Needed, PartitionState, Shard

__all__ = ["ShardStart", "TileHead", "files_of", "head_of", "load", "usable"]

Groups = Mapping[str, FeatureGroup]


@dataclass(frozen=True)
class ShardStart:
    """Where one shard goes on: from these files, and what its checkpoint says: group -> boundary up to which rows are out, (source,
    partition) -> offset before which all was delivered, and -> the first record that an open window needs."""

    files: tuple[TileFile, ...] = ()
    output_watermark: Mapping[str, int | None] = field(default_factory=dict)
    done: Mapping[tuple[str, int], int] = field(default_factory=dict)
    needed: Mapping[tuple[str, int], Needed] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, files: Sequence[TileFile]) -> ShardStart:
        """By the shard's checkpoint."""
        at = {(s, int(n)): point for s, each in checkpoint["partitions"].items() for n, point in each.items()}
        needed = {where: Needed(p["needed"], p["needed_newest"], tuple(p.get("needed_leaps", ()))) for where, p in at.items()}
        return cls(tuple(files), dict(checkpoint["output_watermark"]), {where: p["next"] for where, p in at.items()}, needed)


class TileHead(TypedDict):
    """How far a shard was when its tiles were saved."""

    output_watermark: dict[str, int]
    """group -> boundary up to which its rows were out, in microseconds."""
    partitions: dict[str, dict[int, PartitionState]]
    """source -> partition -> its state."""
    counted: dict[str, int]


def head_of(shard: Shard, number: int, shards: int) -> dict[str, Any]:
    """What a file says of the shard whose tiles it holds."""
    return {
        "shard": number,
        "shards": shards,
        "schemas": {n: tile_schema(g).serialize().to_pybytes() for n, g in shard.groups.items()},
        "output_watermark": dict(shard.output_watermark),
        "partitions": {s: dict(each) for s, each in shard.partitions.items()},
        "counted": dict(shard.counted),
    }


def files_of(checkpoint: Checkpoint) -> list[TileFile]:
    """The files that a checkpoint names. Raises DataError."""
    return [TileFile.from_json(value) for value in checkpoint.get("tiles", ())]


def _fits(head: Any, groups: Groups, number: int, shards: int, name: str) -> TileHead:
    """The head. Raises DataError where it is of another shard, or of groups with other columns."""
    try:
        if (head["shard"], head["shards"]) != (number, shards):
            raise DataError(f"saved tiles {name} are those of shard {head['shard']} of {head['shards']}, not of {number} of {shards}")
        made = {n: pa.ipc.read_schema(pa.py_buffer(data)) for n, data in head["schemas"].items()}
        if made.keys() != groups.keys() or any(not schema.equals(tile_schema(groups[n])) for n, schema in made.items()):
            raise DataError(f"saved tiles {name} are of other definitions")
        return {"output_watermark": head["output_watermark"], "partitions": head["partitions"], "counted": head["counted"]}
    except (KeyError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        raise DataError(f"saved tiles {name} cannot be understood ({type(error).__name__})") from None


def usable(
    store: TileStore, groups: Groups, number: int, shards: int, files: Sequence[TileFile]
) -> tuple[list[TileFile], TileHead | None, list[str]]:
    """The files that give the newest state of a shard that is whole (none, and no head: there is none), the head of the last one, and what
    is wrong with the others, a line each. Every file is read."""
    heads: dict[str, TileHead | None] = {}
    wrong: list[str] = []

    def head(file: TileFile) -> TileHead | None:
        if file.name not in heads:
            heads[file.name] = None
            try:
                heads[file.name] = _fits(store.head(number, file), groups, number, shards, file.name)
            except DataError as error:
                wrong.append(str(error))
        return heads[file.name]

    for at in reversed([i for i, file in enumerate(files) if file.kind != "delta"]):
        last = head(files[at])
        if last is None:
            continue
        chain = [files[at]]
        for file in files[at + 1 :]:
            if file.kind == "base":
                break
            if file.kind == "snapshot":  # damaged, as it was looked at before: the deltas lead past it
                continue
            found = head(file)
            if found is None:
                break
            chain, last = [*chain, file], found
        return chain, last, wrong
    return [], None, wrong


def load(store: TileStore, groups: Groups, number: int, shards: int, start: ShardStart, dropped_late: Any = None) -> Shard:
    """The shard as the files of its start have it, going on behind its checkpoint. Raises DataError where they changed since they were
    looked at: another look finds what is left."""
    tiles: dict[str, list[pa.RecordBatch]] = {name: [] for name in groups}
    head: TileHead | None = None
    for file in start.files:
        made, batches = store.get(number, file)
        head = _fits(made, groups, number, shards, file.name)
        for name, each in batches.items():
            tiles[name] += each
    assert head is not None, "a start has files, or is none"
    # The files may be of a later moment than the checkpoint, where an engine went back to an earlier state of its own: what they hold was
    # delivered then.
    given = {n: b for n, b in start.output_watermark.items() if b is not None}
    reached = {n: max(b, given.get(n, b)) for n, b in head["output_watermark"].items()}
    shard = Shard(groups, reached, start.done, {n: merge(each, groups[n]) for n, each in tiles.items()}, dropped_late)
    shard.resume(head["partitions"], head["counted"], start.needed)
    return shard
