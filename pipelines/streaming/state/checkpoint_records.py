"""What a stream's checkpoint says, and its records as files: a line each, the last whole one counts. What may be believed stands in
:mod:`pipelines.streaming.state.job_state`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from transforms.errors import DataError
from transforms.own_program import boot_id

__all__ = [
    "FOLDER_OF_1",
    "FORMAT",
    "Checkpoint",
    "CheckpointRecord",
    "Checkpoints",
    "PartitionCheckpoint",
    "checkpoint_records",
    "checkpoints_of",
    "is_stream",
    "new_record",
    "next_offset",
    "record_of",
    "records_in",
]

FORMAT = 2
"""Of the checkpoints on disk; 1 (without a number) was called progress, and is read."""
FOLDER_OF_1 = "progress"
_NAMES_OF_1 = {"emitted": "output_watermark", "mark": "generation"}
_BOOT = boot_id()
"""Empty where the system does not tell: then only durable records are believed."""


class PartitionCheckpoint(TypedDict):
    """How far a shard is in a partition. ``next``: all records before this offset are delivered. ``needed``: the first one that an open
    window needs; ``newest`` and ``needed_newest`` are the newest event times (microseconds) before these two. ``needed_leaps``: the
    outliers of time before ``needed``. ``judged``: of how many records before ``next`` how many were rejects and how many too late.
    Checkpoints of earlier versions lack the last two."""

    next: int
    needed: int
    needed_newest: int
    newest: int
    needed_leaps: NotRequired[list[int]]
    judged: NotRequired[list[int]]


class Checkpoint(TypedDict, total=False):
    """What a shard has delivered, as JSON; empty: none. ``partitions``: source -> partition (decimal) -> where it is there.
    ``output_watermark``: group -> boundary up to which rows are out (None: none are); ``watermark``: source -> watermark (microseconds).
    ``topics``: topic -> source. ``run``: the folder of the batch run that the stream began from. ``fingerprints``: group -> hash of the
    definition. ``tiles``: the saved tiles (:meth:`~pipelines.streaming.state.tile_store.TileFile.to_json`), ``settled`` whether these are
    the tiles of this moment. ``ends``: nothing follows. The sink adds ``generation``, name and number of the marker that it left in the
    online store, and ``early``, up to when rows lie in the log that were ahead of the clock (microseconds, 0: none)."""

    shard: int
    shards: int
    output_watermark: dict[str, int | None]
    watermark: dict[str, int]
    partitions: dict[str, dict[str, PartitionCheckpoint]]
    topics: dict[str, str]
    run: str | None
    fingerprints: dict[str, str]
    tiles: list[list[Any]]
    settled: bool
    ends: bool
    generation: tuple[str, int]
    early: int


Checkpoints = Mapping[int, Checkpoint]
"""Shard -> its checkpoint."""


class CheckpointRecord(TypedDict):
    """A checkpoint as it was saved: ``boot`` of the machine (empty: unknown), ``saved`` the moment (UTC, ISO 8601)."""

    format: int
    boot: str
    saved: str
    checkpoint: Checkpoint


def next_offset(checkpoint: Checkpoint, source: str, partition: int) -> int | None:
    """The offset before which a checkpoint's shard has delivered a partition; None where it knows nothing of it."""
    at = checkpoint.get("partitions", {}).get(source, {}).get(str(partition))
    return None if at is None else at["next"]


def new_record(checkpoint: Checkpoint, saved: str) -> CheckpointRecord:
    """A record of a checkpoint that is saved in this boot of the machine."""
    return {"format": FORMAT, "boot": _BOOT, "saved": saved, "checkpoint": checkpoint}


def checkpoints_of(folder: Path) -> Path:
    """Where a stream's checkpoints lie, or will; one of before has another name for it until it is started again."""
    before, now = folder / FOLDER_OF_1, folder / "checkpoints"
    return before if before.is_dir() and not now.is_dir() else now


def is_stream(folder: Path) -> bool:
    """Whether this is the folder of a stream that was started before."""
    return checkpoints_of(folder).is_dir()


def checkpoint_records(folder: Path) -> dict[int, CheckpointRecord]:
    """:func:`records_in` the folder of a stream, which need not be there; writes nothing."""
    return records_in(checkpoints_of(folder))


def records_in(checkpoints: Path) -> dict[int, CheckpointRecord]:
    """Shard -> the record that may be believed: of this boot, or forced to disk. Raises DataError for a damaged file."""
    out: dict[int, CheckpointRecord] = {}
    for path in sorted(checkpoints.glob("shard-*.jsonl")):
        durable = path.parent / "durable" / path.name
        record: CheckpointRecord | None
        try:
            record = record_of(path)
        except DataError:
            if not durable.is_file():
                raise
            record = None
        if record is None or not _BOOT or record["boot"] != _BOOT:
            if not durable.is_file():
                continue
            record = record_of(durable)
        out[int(path.stem.removeprefix("shard-"))] = record
    return out


def record_of(path: Path) -> CheckpointRecord:
    """The last whole line that holds a record, in the present format. Raises DataError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); correct its permissions") from None
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(line)
            if record.get("format", 1) > FORMAT:
                raise DataError(f"{path} is of a newer Tandem (format {record['format']}, this one knows {FORMAT}); use that one")
            if "format" not in record:
                record["checkpoint"] = {_NAMES_OF_1.get(k, k): v for k, v in record["progress"].items()}
            if isinstance(record["checkpoint"], dict) and isinstance(record["boot"], str):
                return cast(CheckpointRecord, record)
    raise DataError(
        f"{path} is damaged (no record in its {len(lines)} lines); restore it, or delete the folder {path.parent}"
        " and the stream starts from the beginning of its topics (or --from-run), which is harmless"
    )
