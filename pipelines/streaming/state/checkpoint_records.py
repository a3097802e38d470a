"""The records of a stream's checkpoints as files: a line each, the last whole one counts. What may be believed stands in
:mod:`pipelines.streaming.state.job_state`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from transforms.errors import DataError
from transforms.own_program import boot_id

__all__ = ["FOLDER_OF_1", "FORMAT", "checkpoint_records", "checkpoints_of", "is_stream", "new_record", "record_of", "records_in"]

FORMAT = 2
"""Of the checkpoints on disk; 1 (without a number) was called progress, and is read."""
FOLDER_OF_1 = "progress"
_NAMES_OF_1 = {"emitted": "output_watermark", "mark": "generation"}


_BOOT = boot_id()
"""Empty where the system does not tell: then only durable records are believed."""


def new_record(checkpoint: dict[str, Any], saved: str) -> dict[str, Any]:
    """A record of a checkpoint that is saved in this boot of the machine."""
    return {"format": FORMAT, "boot": _BOOT, "saved": saved, "checkpoint": checkpoint}


def checkpoints_of(folder: Path) -> Path:
    """Where a stream's checkpoints lie, or will; one of before has another name for it until it is started again."""
    before, now = folder / FOLDER_OF_1, folder / "checkpoints"
    return before if before.is_dir() and not now.is_dir() else now


def is_stream(folder: Path) -> bool:
    """Whether this is the folder of a stream that was started before."""
    return checkpoints_of(folder).is_dir()


def checkpoint_records(folder: Path) -> dict[int, dict[str, Any]]:
    """:func:`records_in` the folder of a stream, which need not be there; writes nothing."""
    return records_in(checkpoints_of(folder))


def records_in(checkpoints: Path) -> dict[int, dict[str, Any]]:
    """Shard -> the record that may be believed: of this boot, or forced to disk. Raises DataError for a damaged file."""
    out = {}
    for path in sorted(checkpoints.glob("shard-*.jsonl")):
        durable = path.parent / "durable" / path.name
        try:
            record = record_of(path)
        except DataError:
            if not durable.is_file():
                raise
            record = {"boot": None}
        if not _BOOT or record["boot"] != _BOOT:
            if not durable.is_file():
                continue
            record = record_of(durable)
        out[int(path.stem.removeprefix("shard-"))] = record
    return out


def record_of(path: Path) -> dict[str, Any]:
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
                return dict(record)
    raise DataError(
        f"{path} is damaged (no record in its {len(lines)} lines); restore it, or delete the folder {path.parent}"
        " and the stream starts from the beginning of its topics (or --from-run), which is harmless"
    )
