"""Rows of older runs that lie behind a corrected range, and whose windows reach back into it.

A run decides the boundaries that it covers. Those right after its end, up to the longest window on, are decided by whichever older run
covers them: they count the events as that run read them. Where the files are others now, somebody corrected a part of history and left
its consequences as they were; nothing else would say so, as each row is right by the run that it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from pipelines.lake.run_records import BatchRecord
from pipelines.lake.runs import Run
from pipelines.sources.log_names import in_range
from transforms.definitions import FeatureGroup, duration_name
from transforms.instants import instant, micros_of

__all__ = ["left_behind"]


def left_behind(made: Run, complete: Sequence[Run], groups: Mapping[str, FeatureGroup]) -> list[str]:
    """A line for each group that ``made``, a complete run, leaves such rows of; ``complete``: the runs before it, oldest first."""
    mine = made.as_(BatchRecord)
    end, lines = _range(mine.range)[1], []
    further = [r.as_(BatchRecord) for r in reversed(complete) if r.id != made.id and _covers(r.head.range, end)]
    for name, group in groups.items():
        older = next((r for r in further if r.fingerprints.get(name) == mine.fingerprints.get(name)), None)
        if older is None:
            continue
        files = _unlike(older, mine, group.source.name, end - group.longest_us, end)
        if files:
            until = min(end + group.longest_us, _range(older.range)[1])
            lines.append(
                f"{name}: its rows after {_text(end)} are still those of {older.id}, whose windows of up to"
                f" {duration_name(timedelta(microseconds=group.longest_us))} count what this run corrected as it was before ({files[0]}"
                f"{f' and {len(files) - 1:,} more files' if files[1:] else ''}); run up to {_text(until)} to correct them too"
            )
    return lines


def _covers(span: Sequence[str], end: int) -> bool:
    """Whether a run over this range decides the first boundary after ``end``."""
    begun, upto = _range(span)
    return begun <= end < upto


def _unlike(older: BatchRecord, mine: BatchRecord, source: str, first: int, end: int) -> list[str]:
    """The files that may hold events of a range and that one of the runs read otherwise than the other, or not at all."""
    then, now = _files(older, source), _files(mine, source)
    both = sorted(n for n in then.keys() | now.keys() if in_range(n, first, end))
    return [n for n in both if then.get(n) != now.get(n)]


def _files(record: BatchRecord, source: str) -> dict[str, str]:
    read: Iterable[Mapping[str, str]] = (*record.past.get(source, ()), *record.inputs.get(source, ()))
    return {f["file"]: f["sha256"] for f in read}


def _range(span: Sequence[str]) -> tuple[int, int]:
    begun, upto = (micros_of(datetime.fromisoformat(str(t))) for t in span or ("1970-01-01T00:00:00+00:00",) * 2)
    return begun, upto


def _text(us: int) -> str:
    return f"{instant(us):%Y-%m-%d %H:%M}"
