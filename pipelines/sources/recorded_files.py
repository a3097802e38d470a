"""Event files as earlier runs recorded them: which are as they were, without reading them.

A file of the name and size that a run recorded, that nobody touched since that run began, is taken for the same; one that was touched is
hashed. Touched is what has a later time of change (of its content, or of its entry in the file system, which nobody sets by hand).
An object is hashed anew: of one that was uploaded in parts a store tells when that began, and of a copy, when its original was uploaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipelines.lake.data_files import sha256
from pipelines.lake.run_parts import InputFile
from pipelines.lake.run_records import BatchRecord
from pipelines.sources.event_files import EventFile
from transforms.instants import micros_of

__all__ = ["Recorded", "as_inputs", "digest_of", "recorded", "untouched"]

_SLACK_US = 2_000_000
"""File systems note the time of a change by a clock that ticks more slowly than ours, some by the second."""


@dataclass(frozen=True)
class Recorded:
    """A file as the newest of some runs read it; ``since_us``: when that run began."""

    size: int
    sha256: str
    since_us: int


def recorded(runs: Sequence[BatchRecord], source: str) -> dict[str, Recorded]:
    """Name -> file, of all that these runs (newest first) read of a source, or found as it was in the run that they continue."""
    out: dict[str, Recorded] = {}
    for run in runs:
        since = micros_of(datetime.fromisoformat(run.created))
        for f in (*run.inputs.get(source, ()), *run.past.get(source, ())):
            out.setdefault(f["file"], Recorded(f["size"], f["sha256"], since))
    return out


def untouched(file: EventFile, known: Mapping[str, Recorded]) -> str:
    """The recorded SHA-256 of a file that nobody touched since, else ""."""
    then = known.get(file.name)
    if then is None or then.size != file.size:
        return ""
    stat = os.stat(file.path)
    changed = max(stat.st_mtime_ns, stat.st_ctime_ns) // 1000
    return then.sha256 if changed < then.since_us - _SLACK_US else ""


def digest_of(file: EventFile, known: Mapping[str, Recorded]) -> str:
    """The SHA-256 of a file: as somebody found it, the recorded one, where nobody touched it since, or that of its bytes."""
    return file.sha256 or untouched(file, known) or sha256(Path(file.path))


def as_inputs(files: Sequence[EventFile], known: Mapping[str, Recorded]) -> list[InputFile]:
    """The files as a manifest names them."""
    return [{"file": f.name, "size": f.size, "sha256": digest_of(f, known)} for f in files]
