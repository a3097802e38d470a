"""A stream's log as it will be once what a killed stream left open is sealed, for who may not seal it yet: a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.forgetting.found_files import Found
from pipelines.streaming.state.log_segments import open_rows, write_sealed
from pipelines.streaming.state.stream_objects import PART, stem_of

__all__ = ["as_sealed"]


def as_sealed(files: Sequence[Found], folder: Path) -> list[Found]:
    """The files, with those of open segments in ``folder`` in the place of these; one without rows is none, as it will be."""
    out: list[Found] = []
    open_ones: dict[str, list[Found]] = {}
    names = {file.name for file in files}
    for file in files:
        parts = file.name.split("/")
        of_log = parts[0] == "stream" and parts[2:3] in (["rows"], ["late"]) and len(parts) == 5
        if of_log and parts[-1].endswith((".log", PART)):
            stem = stem_of(parts[-1]) if parts[-1].endswith(PART) else parts[-1].removesuffix(".log")
            open_ones.setdefault("/".join([*parts[:-1], f"{stem}.parquet"]), []).append(file)
        else:
            out.append(file)
    for name, found in open_ones.items():
        rows = open_rows([file.path for file in found]) if name not in names else None
        if rows is not None and rows.num_rows:
            sealed = folder / name
            sealed.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(rows, sealed)
            out.append(replace(found[0], path=sealed, name=name))
    return out
