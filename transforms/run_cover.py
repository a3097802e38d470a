"""Which batch run decides which rows: a run covers a range of boundaries, and of runs of one graph the newest that covers one decides it.

Absence is part of the decision: a key that the deciding run has no row for at a boundary has none there, whatever older runs say. Beside
its rows a run keeps :data:`COVER`, what it covers of a group. Standard library only: training, serving and pipelines read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transforms import data_folder
from transforms.errors import DataError
from transforms.instants import micros_of

__all__ = ["COVER", "Cover", "Segment", "read_cover", "segments", "write_cover"]

COVER = "cover.json"
"""The file in ``offline/<group>/run=<id>`` that says what the run covers."""
_FORMAT = 1


@dataclass(frozen=True)
class Cover:
    """What one run covers of one group: event timestamps ``after_us < t <= upto_us`` (microseconds), with the graph ``fingerprint``;
    ``created_us`` is the moment at which the run began."""

    run: str
    created_us: int
    after_us: int
    upto_us: int
    fingerprint: str


@dataclass(frozen=True)
class Segment:
    """The event timestamps ``after_us < t <= upto_us`` (microseconds) that ``run`` decides."""

    run: str
    after_us: int
    upto_us: int


def write_cover(folder: Path, cover: Cover) -> None:
    """Write :data:`COVER` into a folder that nobody sees yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COVER).write_text(json.dumps({"format": _FORMAT, **asdict(cover)}, sort_keys=True) + "\n")


def read_cover(folder: Path) -> Cover | None:
    """What the run whose rows of a group lie in ``<data>/offline/<group>/run=<id>`` covers.

    Runs of before this file are known by their manifest ``<data>/runs/<id>/manifest.json``; None where that is gone, too. Raises
    DataError for a file that cannot be read, or of a newer version.
    """
    path = folder / COVER
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise DataError(f"{path}: format {found.get('format') if isinstance(found, dict) else '?'} is not {_FORMAT}; update Tandem")
        return Cover(**{name: found[name] for name in Cover.__dataclass_fields__})
    except FileNotFoundError:
        return _of_manifest(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}); run the batch job again with --rerun") from None


def _of_manifest(folder: Path) -> Cover | None:
    group, run = folder.parent.name, folder.name.removeprefix("run=")
    try:
        made: Any = json.loads((data_folder.run(folder.parents[2], run) / data_folder.MANIFEST).read_text())
        if made["status"] != "complete":
            return None
        delay = int(made["definitions"][group]["source"]["delay"])
        after, upto = (micros_of(datetime.fromisoformat(t)) + delay for t in made["range"])
        return Cover(run, micros_of(datetime.fromisoformat(made["created"])), after, upto, made["fingerprints"][group])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def segments(covers: Iterable[Cover]) -> list[Segment]:
    """Who decides what: disjoint segments, in order of time. Of runs that began in the same microsecond the greater id is the newer."""
    out: list[Segment] = []
    taken: list[tuple[int, int]] = []  # disjoint, in order
    for cover in sorted(covers, key=lambda c: (c.created_us, c.run), reverse=True):
        free, at = [], cover.after_us
        for lo, hi in taken:
            if at < min(lo, cover.upto_us):
                free.append((at, min(lo, cover.upto_us)))
            at = max(at, hi)
        if at < cover.upto_us:
            free.append((at, cover.upto_us))
        out += [Segment(cover.run, lo, hi) for lo, hi in free]
        taken = _joined(taken + free)
    return sorted(out, key=lambda s: s.after_us)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint spans in order; neighbours that touch are one, so that many runs after one another cost little."""
    out: list[tuple[int, int]] = []
    for lo, hi in sorted(spans):
        if out and lo <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], hi))
        else:
            out.append((lo, hi))
    return out
