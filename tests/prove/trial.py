"""The end of a trial: wait for delivery, compare everything that can be compared by then, and write it into the report."""

from __future__ import annotations

import time

from tests.prove import check
from tests.prove.report import TOLD_APART, Kind
from tests.prove.rig import Rig, Stream

__all__ = ["finish", "judge", "values"]


def values(rig: Rig, n: int) -> int:
    """How many values :func:`check.online` compares."""
    due = rig.slice.due(n)
    return sum(len(rows) * (len(rig.repo.groups[name].features) + 1) for name, rows in due.online.items())


def judge(entry: Kind, stream: Stream, before: int, n: int, hit: str, begun: float, blow: float) -> list[str]:
    """Of a trial that began at ``begun`` with ``before`` records fed, was dealt at ``blow``, and ended with n records acknowledged: wait
    until these are delivered, compare every online value and the dead letters, note it; what differed.

    Raises AssertionError, after it is noted, where they are not delivered in time.
    """
    rig, problem = stream.rig, None
    try:
        stream.wait(n)
    except AssertionError as error:
        problem = error
    recovery, wrong = time.monotonic() - blow, check.online(rig, n)
    letters = check.dead_letters(rig, n)[0]
    control = n > before and bool(check.online(rig, before))
    broken = {(r.source, r.partition, r.offset) for r in rig.slice.records[before:n] if r.broken}
    missing = broken - check.found_letters(rig).keys()
    applied = stream.delivered_of(before, n)
    entry.trial(
        hit,
        values(rig, n),
        wrong + letters,
        time.monotonic() - begun,
        acknowledged=n - before,
        applied=applied,
        dead_letters=len(broken) - len(missing),
        lost=n - before - applied + len(missing),
        recovery=None if problem else recovery,
        counts={TOLD_APART: int(control)},
    )
    if problem:
        entry.notes.append(f"{hit} at {n}: {problem}")
        raise problem
    return wrong + letters


def finish(rig: Rig, stream: Stream) -> list[str]:
    """Send what is left, stop the stream, and compare what it leaves: exit code, row log, late log, dead letters, online values."""
    with rig.feeding(len(rig.slice.records), 0):
        pass
    total = rig.fed
    stream.wait(total)
    code = stream.stop()
    rest = [f"exit code {code} at the end:\n{stream.tail()}"] if code else []
    rest += check.row_log(stream, total) + check.late_log(stream, total) + check.dead_letters(rig, total)[0]
    return rest + ([] if rig.stock else check.online(rig, total))
