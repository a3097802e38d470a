"""How far event time is after some events of a partition, and which of them come too late: word by word as docs/semantics.md has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

IN_A_ROW, AT_THE_START = 10, 2


def reached(times: Sequence[int], far: int | None) -> tuple[int | None, list[int]]:
    """Event time after these events in their order (None: it has not begun), and the row of leaps that it does not believe, sorted.

    ``far``: an event this far ahead moves it alone, one that is further leaps; None: none leaps.
    """
    if far is None:
        return (max(times) if times else None), []
    now: int | None = None
    row: list[int] = []
    for time in times:
        if now is None or time - now > far:
            row = sorted([*row, time])
        else:
            now, row = (time if time > now else now), []
        if len(row) == (AT_THE_START if now is None else IN_A_ROW):
            believed = [row[0]]
            for earlier, later in pairwise(row):
                if later - earlier > far:
                    break
                believed.append(later)
            now, row = believed[-1], row[len(believed) :]
    return now, row


def verdicts(times: Sequence[int], slack: int, allowed: int, limit: int | None, begin: int | None = None) -> list[str]:
    """ "in", "late" or "before" of each event: ``slack`` is the source's out-of-orderness, ``allowed`` its allowed lateness."""
    far = None if limit is None else max(limit, slack + allowed)
    out = []
    for n, time in enumerate(times):
        now, _ = reached(times[:n], far)
        late = now is not None and time < now - slack - allowed
        out.append("before" if begin is not None and time < begin else "late" if late else "in")
    return out
