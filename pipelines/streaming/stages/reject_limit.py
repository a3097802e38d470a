"""A partition whose records are rejected too often is paused, where it is, until a person says what to do; so may be one whose events
come too late, and in any case that is said."""

from __future__ import annotations

import numpy as np

from pipelines.project.config import StreamSettings
from pipelines.sources.broker import Ints
from pipelines.streaming.stages.position import Position
from pipelines.streaming.state.job_state import RESUME, JobState
from transforms.contract import Checked

__all__ = ["RejectLimit"]

_FEWEST = 100
"""Records (or the whole window, if it is smaller) before which no share is judged."""
_LATE = 10
"""Late events from which on their share is judged, of however few records: so many in a row believe one another's clock."""


class RejectLimit:
    """Judges the shares of rejects and of late events among the last ``stream.reject_window`` records or so; asks ``job_state`` whether
    to go on. Records that an earlier run judged are not judged again."""

    def __init__(self, stream: StreamSettings, job_state: JobState) -> None:
        self.stream, self.job_state = stream, job_state
        self.late: set[str] = set()
        self.came_late: dict[str, str] = {}
        """``source/partition`` -> what is to be said of it at the end: too many of its events came too late, and nobody let them."""

    def exceeded(self, key: str, where: str, at: Position, offsets: Ints, checked: Checked, late: Ints) -> bool:
        """Whether these records (``offsets`` int64 [N], judged as ``checked``, those at offsets ``late`` too late) take a share above its
        limit: then the position stays and is paused. ``key`` is ``source/partition``; ``where`` ``topic/partition``, for people."""
        stream = self.stream
        n, bad, too_late = (int(np.count_nonzero(o >= at.done)) for o in (offsets, offsets[checked.rejected], late))
        if not n:
            return False
        if at.recent + n > 2 * stream.reject_window:
            at.recent, at.recent_bad, at.recent_late = at.recent // 2, at.recent_bad // 2, at.recent_late // 2
        recent, recent_bad, recent_late = at.recent + n, at.recent_bad + bad, at.recent_late + too_late
        enough = recent >= min(stream.reject_window, _FEWEST)
        many_late = (enough or recent_late >= _LATE) and recent_late > stream.max_late_share * recent
        came_late = f"{recent_late} of the last {recent} records were too late"
        if at.paused != "resumed" and enough and recent_bad > stream.max_reject_share * recent:
            most = checked.reasons.drop_null().value_counts().to_pylist()
            why = max(most, key=lambda c: c["counts"])["values"] if most else "none in this poll"
            at.paused = (
                f"{where} is paused at offset {at.next}: {recent_bad} of the last {recent} records were rejected, most now: {why};"
                " fix the producer or the contract and restart, or accept them as dead letters with 'tandem stream resume'"
            )
        elif at.paused != "resumed" and many_late and stream.pause_when_late:
            at.paused = (
                f"{where} is paused at offset {at.next}: {came_late};"
                " check for a producer whose clock is ahead, or send them to the late log with 'tandem stream resume'"
            )
        if at.paused and at.paused != "resumed":
            self.job_state.say(at.paused)
            if not self.resumed(key, at):  # may have been asked for before
                return True
        if many_late:
            line = f"{where}: {came_late}; check for a producer whose clock is ahead, or raise allowed_lateness; batch runs include them"
            if where not in self.late:
                self.job_state.say(line)
            if at.paused != "resumed":
                self.came_late[key] = line
        (self.late.add if many_late else self.late.discard)(where)
        if at.paused == "resumed":
            at.paused, recent, recent_bad, recent_late = "", 0, 0, 0
        at.recent, at.recent_bad, at.recent_late = recent, recent_bad, recent_late
        return False

    def late_share(self, at: Position) -> float:
        """The share of late events among the last records, once there are enough of them to tell."""
        enough = at.recent >= min(self.stream.reject_window, _FEWEST) or at.recent_late >= _LATE
        return at.recent_late / at.recent if enough else 0.0

    def resumed(self, key: str, at: Position) -> bool:
        """Whether a paused partition (``source/partition``) may go on, rejects and all."""
        flag = RESUME + key.replace("/", "-")
        if at.paused != "resumed" and self.job_state.requested(flag):
            self.job_state.clear(flag)
            at.paused = "resumed"
            self.job_state.say(f"{key}: resumed, rejects become dead letters")
        return at.paused == "resumed"
