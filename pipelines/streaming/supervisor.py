"""The driver's watch over a job: restarts it from the checkpoint, stops it when all that was polled is delivered, gives up in time.

Every engine's jobs go through it. Nothing here knows Beam or Flink; time is injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines.streaming.engines.stream_engine import EngineJob
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.state.checkpoint_records import Checkpoints, next_offset
from pipelines.streaming.state.job_state import JobState
from transforms.errors import TandemError

__all__ = ["Outcome", "Supervisor", "delivered", "reached"]


@dataclass(frozen=True)
class Outcome:
    """How it ended: exit code, one line for people, and how often the engine was started anew."""

    code: int
    why: str
    restarts: int = 0
    savepoint: str | None = None


# ------------------------------------------------------------------------------------------------------------------------ how far it is

Partitions = Mapping[str, Mapping[int, int]]


def _has(checkpoints: Checkpoints, shards: int, source: str, partition: int, offset: int) -> bool:
    """Whether every shard delivered that partition up to ``offset``."""
    known = [next_offset(checkpoints.get(n, {}), source, partition) for n in range(shards)]
    return all(at is not None and at >= offset for at in known)


def delivered(reports: PartReports, checkpoints: Checkpoints, shards: int) -> bool:
    """Whether every poll has stopped, and all that it took is delivered by all shards and recorded, with the tiles that it made."""
    return all(
        p.stopped and (p.position.next <= p.position.start or _has(checkpoints, shards, p.source, p.partition, p.position.next))
        for p in reports.polls.values()
    ) and (not reports.polls or _settled(checkpoints, shards))


def _settled(checkpoints: Checkpoints, shards: int) -> bool:
    """Whether the tiles that each checkpoint names are those of its moment, so that a start need not read anything again."""
    return all(checkpoints.get(n, {}).get("settled", True) for n in range(shards))


def reached(until: Partitions, reports: PartReports, checkpoints: Checkpoints, shards: int) -> bool:
    """Whether all records before the offsets ``until`` (source -> partition -> offset) are delivered and recorded. Their tiles need not be
    saved: a stream that goes on saves them with what comes next, or when it ends."""
    begun = {(p.source, p.partition): p.position for p in reports.polls.values()}
    for source, ends in until.items():
        for partition, end in ends.items():
            poll = begun.get((source, partition))
            if poll is not None and poll.start == poll.next >= end:
                continue  # nothing was there to read
            if not _has(checkpoints, shards, source, partition, end):
                return False
    return True


def paused_at(reports: PartReports) -> dict[tuple[str, int], str]:
    """The paused partitions (source, partition), and why each is."""
    return {(p.source, p.partition): p.paused for p in reports.polls.values() if p.paused}


def late_at(reports: PartReports) -> dict[tuple[str, int], str]:
    """The partitions (source, partition) of which too many events came too late to count, and what is to be said of each."""
    return {(p.source, p.partition): p.came_late for p in reports.polls.values() if p.came_late}


def position(checkpoints: Checkpoints) -> int:
    """A number that grows when the checkpoint moves."""
    return sum(int(at["next"]) for point in checkpoints.values() for each in point.get("partitions", {}).values() for at in each.values())


def unheard(reports: PartReports, shards: int) -> list[str]:
    """The parts of a job that have not reported: partitions of which it is known that they are there, and shards once records were
    taken."""
    polls, known = reports.polls.values(), reports.unread.keys()
    if not known:
        return ["the partitions of the topics"]
    out = [f"partition {source}/{p}" for source, p in sorted(known - {(p.source, p.partition) for p in polls})]
    if any(p.position.next > p.position.start for p in polls):
        out += [f"shard {n}" for n in range(shards) if str(n) not in reports.sinks]
    return out


# ------------------------------------------------------------------------------------------------------------------------------ the watch


@dataclass
class Silence:
    """For how many seconds no poll and no sink reported. Who waits for a broker, a store or a disk reports that, so a wait is no silence.
    Only time that was watched counts: where this process was stopped too, a look counts as two seconds at most."""

    job_state: JobState
    seconds: float = 0.0
    _looked: float | None = None
    _heard: Mapping[str, int] = field(default_factory=dict)

    def look(self, now: float) -> float:
        """The seconds of silence at ``now``; cheap: once a second files are looked at."""
        since = now - self._looked if self._looked is not None else 0.0
        if self._looked is not None and since < 1.0:
            return self.seconds
        heard = self.job_state.heard()
        self.seconds = self.seconds + min(since, 2.0) if heard == self._heard else 0.0
        self._looked, self._heard = now, heard
        return self.seconds


@dataclass
class Supervisor:
    """Runs jobs until one ends well, is asked to stop, or fails too often.

    ``make`` gives a new job for an attempt (0, 1, ...), from the checkpoint of that moment; ``until``: the stream ends by itself
    there; ``watch`` is called every ``beat`` seconds. A worker's fatal line (``JobState.failure``) ends the stream at once. A crash of the
    engine restarts it after a pause that doubles from 1 to ``longest_pause`` seconds; after ``limit`` crashes between which the
    checkpoint did not move the stream gives up. Parts of a job of which nothing was heard for ``unheard_seconds`` are told with the
    engine's reason, where it has one; after ``lost_seconds`` that is a crash. So is a job that can be ended whatever its workers do and of
    which nothing is heard for ``silent_seconds`` (:class:`Silence`), as long as Flink is patient with a process that stands still.
    """

    job_state: JobState
    make: Callable[[int], EngineJob]
    shards: int
    say: Callable[[str], None]
    until: Partitions | None = None
    watch: Callable[[], None] = lambda: None
    savepoint: Callable[[], str] | None = None
    limit: int = 5
    unheard_seconds: float = 60.0
    lost_seconds: float = 300.0
    silent_seconds: float = 600.0
    drain_seconds: float = 60.0
    longest_pause: float = 30.0
    beat: float = 0.1
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall: Callable[[], float] = time.time
    late: dict[tuple[str, int], str] = field(default_factory=dict)
    """What any worker of this run said of events that came too late, by (source, partition)."""

    def run(self) -> Outcome:
        """To the end. Raises what the first start raises; later ones are failures like others."""
        attempt = failures = 0
        mark = position(self.job_state.load_checkpoints())
        while True:
            job: EngineJob | None = None
            try:
                try:
                    job = self.make(attempt)
                    job.start()
                    outcome, crash = self._follow(job, attempt)
                except (TandemError, OSError) as error:
                    if attempt == 0:
                        raise
                    fatal = self.job_state.failure()
                    outcome, crash = None if fatal is None else Outcome(1, fatal, attempt), " ".join(str(error).split())
            finally:
                if job is not None:
                    job.stop()
            if outcome is not None:
                return outcome
            now = position(self.job_state.load_checkpoints())
            failures, mark = (1 if now > mark else failures + 1), now
            if failures >= self.limit:
                return Outcome(1, f"the engine failed {failures} times without progress, last error: {crash}", attempt)
            attempt += 1
            pause = min(2.0 ** (failures - 1), self.longest_pause)
            self.say(f"the engine failed: {crash}; restarting from the checkpoint in {pause:.0f} s")
            if not self._pause(pause):
                if self.job_state.requested("savepoint"):
                    self.say("no savepoint was made: the engine had failed, and no job runs; the stream keeps its own checkpoint")
                return Outcome(0, "stopped", attempt - 1)

    def _follow(self, job: EngineJob, attempt: int) -> tuple[Outcome | None, str]:
        """Until the job is over: how the stream ended, or None and why this job crashed."""
        stopping: float | None = None
        begun, since, told, heard = self.wall(), self.clock(), False, False
        silence = Silence(self.job_state)
        while True:
            self.watch()
            fatal = self.job_state.failure()
            if fatal is not None:
                return Outcome(1, fatal, attempt), ""
            if (anew := self.job_state.asked_anew(begun)) is not None:
                return None, anew
            code = job.poll()
            if self.job_state.requested("savepoint") and self.savepoint is not None and code is None and stopping is None:
                try:
                    path = self.savepoint()
                except TandemError as error:
                    self.job_state.clear("savepoint")
                    self.say(f"no savepoint was taken, the stream continues: {error}")
                else:
                    self.say(f"stopped with savepoint {path}")
                    return Outcome(0, "stopped with a savepoint", attempt, path), ""
            if stopping is None and self.job_state.requested("stop"):
                stopping = self.clock()
                self.say("stopping: delivering what was polled")
            if stopping is not None:
                # What an engine before this one polled and did not deliver comes again at the next start.
                if delivered(self._reports(begun), self.job_state.load_checkpoints(), self.shards):
                    return Outcome(0, "stopped", attempt), ""
                if code is not None or self.clock() - stopping > self.drain_seconds:
                    what = "the engine ended in the meantime" if code is not None else f"this takes more than {self.drain_seconds:g} s"
                    return Outcome(0, f"stopped; {what}: undelivered records are read again at the next start", attempt), ""
            if self.until is not None:
                reports = self._reports()
                paused = paused_at(reports)
                self.late |= late_at(reports)
                rest = {s: {p: o for p, o in ends.items() if (s, p) not in paused} for s, ends in self.until.items()}
                checkpoints = self.job_state.load_checkpoints()
                if reached(rest, reports, checkpoints, self.shards) and (not reports.polls or _settled(checkpoints, self.shards)):
                    # An end that was reached past much of what is there is none: who waits for it must hear of that.
                    late = [f"all records are delivered, but too many are in no row: {why}" for why in self.late.values()]
                    why = next(iter([*paused.values(), *late]), "all records up to the end offsets are delivered")
                    return Outcome(int(bool(paused or late)), why, attempt), ""
            if code is not None:
                return None, job.error() if code else "it ended by itself"
            if job.ends_hung_workers and stopping is None and silence.look(self.clock()) > self.silent_seconds:
                return None, f"its workers have not reported for {self.silent_seconds:.0f} s"
            if not heard and stopping is None and self.clock() - since > (self.lost_seconds if told else self.unheard_seconds):
                missing = unheard(self._reports(begun), self.shards)
                heard = not missing
                reason = job.unheard(missing) if missing else None
                if reason is not None and told:
                    return None, f"no worker reads {', '.join(missing[:5])}: {reason}"
                if reason is not None:
                    self.say(f"no worker reads {', '.join(missing[:5])} after {self.unheard_seconds:.0f} s: {reason}")
                told, heard = True, heard or reason is None
            self.sleep(self.beat)

    def _reports(self, since: float = 0.0) -> PartReports:
        return PartReports.of(self.job_state.reports(), since)

    def _pause(self, seconds: float) -> bool:
        """Wait; False if a stop is asked for, with a savepoint or without."""
        until = self.clock() + seconds
        while self.clock() < until:
            self.watch()
            if self.job_state.requested("stop") or (self.savepoint is not None and self.job_state.requested("savepoint")):
                return False
            self.sleep(self.beat)
        return True
