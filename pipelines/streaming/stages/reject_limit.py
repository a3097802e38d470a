"""A partition whose records are rejected too often is paused, where it is, until a person says what to do."""

from __future__ import annotations

from pipelines.project.config import StreamSettings
from pipelines.streaming.stages.position import Position
from pipelines.streaming.state.job_state import JobState
from transforms.contract import Checked

__all__ = ["RejectLimit"]

_FEWEST = 100
"""Records (or the whole window, if it is smaller) before which no share is judged."""


class RejectLimit:
    """Judges the share of rejects among the last ``stream.reject_window`` records or so; asks ``job_state`` whether to go on."""

    def __init__(self, stream: StreamSettings, job_state: JobState) -> None:
        self.stream, self.job_state = stream, job_state

    def exceeded(self, where: str, at: Position, n: int, checked: Checked) -> bool:
        """Whether ``n`` more records, judged as ``checked``, take the share above the limit: then the position stays and is paused.

        ``where`` is ``topic/partition``, for people.
        """
        stream, bad = self.stream, len(checked.rejected)
        if at.recent + n > 2 * stream.reject_window:
            at.recent, at.recent_bad = at.recent // 2, at.recent_bad // 2
        recent, recent_bad = at.recent + n, at.recent_bad + bad
        if at.paused != "resumed" and recent >= min(stream.reject_window, _FEWEST) and recent_bad > stream.max_reject_share * recent:
            most = checked.reasons.drop_null().value_counts().to_pylist()
            why = max(most, key=lambda c: c["counts"])["values"] if most else "none in this poll"
            at.paused = (
                f"{where} is paused at offset {at.next}: {recent_bad} of the last {recent} records were rejected, most now: {why};"
                " fix the producer or the contract and restart, or take them as dead letters with 'tandem stream resume'"
            )
            self.job_state.say(at.paused)
            return True
        if at.paused == "resumed":
            at.paused, recent, recent_bad = "", 0, 0
        at.recent, at.recent_bad = recent, recent_bad
        return False

    def resumed(self, key: str, at: Position) -> bool:
        """Whether a paused partition (``source/partition``) may go on, rejects and all."""
        flag = "resume-" + key.replace("/", "-")
        if at.paused != "resumed" and self.job_state.requested(flag):
            self.job_state.clear(flag)
            at.paused = "resumed"
            self.job_state.say(f"{key}: going on, rejects and all")
        return at.paused == "resumed"
