"""The driver's watch: when it restarts, when it stops, when it gives up. Time and jobs are made up."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.streaming.driver import Driver, running
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.state.checkpoint_records import Checkpoint, Checkpoints
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.stream_plan import patiently, still_ours, while_ours
from pipelines.streaming.supervisor import Silence, Supervisor, delivered, reached
from transforms.errors import ConfigError, DataError, FingerprintError, OwnerError, RightsError, StoreError, TandemError

ROOT = Path(__file__).resolve().parents[2]


def point(shard, next_, shards=1, source="s", partition=0):
    """A shard's checkpoint."""
    at = {"next": next_, "newest": 0, "needed": 0, "needed_newest": 0}
    return {"shard": shard, "shards": shards, "output_watermark": {}, "watermark": {}, "partitions": {source: {str(partition): at}}}


def poll(next_, stopped=False, start=0, source="s", partition=0):
    """A poll's report."""
    return {"source": source, "partition": partition, "start": start, "next": next_, "stopped": stopped, "end": 9, "counts": {}}


@dataclass
class World:
    """A clock that sleeping moves, and what happens at which moment."""

    control: JobState
    now: float = 0.0
    events: list = field(default_factory=list)
    said: list = field(default_factory=list)
    jobs: list = field(default_factory=list)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now = round(self.now + seconds, 6)
        due = [e for e in self.events if e[0] <= self.now]
        self.events = [e for e in self.events if e[0] > self.now]
        for _, action in due:
            action()

    def supervisor(self, make, **options):
        options = {"wall": lambda: 0.0, **options}
        return Supervisor(self.control, make, 1, self.said.append, clock=self.clock, sleep=self.sleep, **options)


class FakeJob:
    """Ends with ``code`` ``after`` seconds."""

    ends_hung_workers = False

    def __init__(self, world, after=None, code=1, error="it broke"):
        self.world, self.after, self.code, self.why, self.stopped = world, after, code, error, False
        world.jobs.append(self)

    def start(self):
        self.begun = self.world.now

    def poll(self):
        return self.code if self.after is not None and self.world.now - self.begun >= self.after else None

    def error(self):
        return self.why

    def unheard(self, parts):
        return None

    def stop(self):
        self.stopped = True


@pytest.fixture
def world(tmp_path):
    return World(JobState(tmp_path / "main"))


def test_a_stop_waits_until_all_that_was_polled_is_delivered(world):
    control = world.control
    control.report("poll-s-0", poll(50))
    control.save_checkpoint(0, point(0, 20))
    stopped_at = []

    def finish() -> None:
        control.save_checkpoint(0, point(0, 60))
        stopped_at.append(world.now)

    world.events = [
        (5, lambda: control.request("stop")),
        (6, lambda: control.report("poll-s-0", poll(60, stopped=True))),
        (8, lambda: control.save_checkpoint(0, point(0, 59))),
        (9, finish),
    ]
    outcome = world.supervisor(lambda n: FakeJob(world)).run()
    assert (outcome.code, outcome.why, outcome.restarts) == (0, "stopped", 0)
    assert stopped_at and world.now == stopped_at[0]
    assert world.jobs[0].stopped


def test_a_stop_that_takes_too_long_ends_all_the_same_and_says_what_that_means(world):
    world.control.report("poll-s-0", poll(50, stopped=True))
    world.control.request("stop")
    outcome = world.supervisor(lambda n: FakeJob(world), drain_seconds=7).run()
    assert outcome.code == 0 and "read again at the next start" in outcome.why
    assert 7 <= world.now < 8


def test_a_stop_does_not_wait_for_what_an_engine_before_had_polled(world):
    world.control.report("poll-s-0", poll(50))
    world.control.request("stop")
    outcome = world.supervisor(lambda n: FakeJob(world), wall=lambda: time.time() + 1).run()
    assert (outcome.code, outcome.why, world.now) == (0, "stopped", 0)


def test_crashes_restart_it_with_growing_pauses_until_it_gives_up(world):
    begun = []

    def make(attempt):
        begun.append((attempt, world.now))
        return FakeJob(world, after=0)

    outcome = world.supervisor(make, limit=4).run()
    assert (outcome.code, outcome.restarts) == (1, 3)
    assert outcome.why == "the engine failed 4 times without progress, last error: it broke"
    assert [round(t) for _, t in begun] == [0, 1, 3, 7]
    assert all(job.stopped for job in world.jobs)
    assert len(world.said) == 3 and "it broke" in world.said[0]


def test_getting_further_resets_the_count(world):
    def make(attempt):
        world.control.save_checkpoint(0, point(0, 10 * attempt))
        if attempt == 12:
            world.control.request("stop")
        return FakeJob(world, after=0.5 if attempt < 12 else None)

    # each crash comes after the checkpoint has moved on
    outcome = world.supervisor(make, limit=2).run()
    assert (outcome.code, outcome.restarts) == (0, 12)


def test_a_workers_fatal_line_ends_it_at_once(world):
    world.events = [(1, lambda: world.control.fail("topic 's' is gone; make it"))]
    outcome = world.supervisor(lambda n: FakeJob(world)).run()
    assert (outcome.code, outcome.why) == (1, "topic 's' is gone; make it")


def test_what_the_first_start_raises_is_raised_and_later_it_is_a_failure(world):
    def never(attempt):
        raise ConfigError("no cluster there")

    with pytest.raises(ConfigError):
        world.supervisor(never).run()

    def later(attempt):
        if attempt:
            raise ConfigError("no cluster there")
        return FakeJob(world, after=0)

    outcome = world.supervisor(later, limit=3).run()
    assert outcome.code == 1 and outcome.why.endswith("no cluster there")


def test_a_stop_while_it_pauses_ends_it(world):
    world.events = [(0.5, lambda: world.control.request("stop"))]
    outcome = world.supervisor(lambda n: FakeJob(world, after=0)).run()
    assert (outcome.code, outcome.why) == (0, "stopped")
    assert world.now < 1


@pytest.mark.parametrize("has_savepoints", [True, False])
def test_a_savepoint_that_is_asked_for_while_it_pauses_ends_it_and_none_was_made(world, has_savepoints):
    """Only ``stop`` was heard there: the asker waited for two minutes. An engine that has none leaves it to who asks, who is refused."""
    savepoint = (lambda: pytest.fail("there is no job to make one of")) if has_savepoints else None
    world.events = [(0.5, lambda: world.control.request("savepoint")), (0.9, lambda: world.control.clear("savepoint"))]
    outcome = world.supervisor(lambda n: FakeJob(world, after=0), savepoint=savepoint, limit=2).run()
    said = [line for line in world.said if "no savepoint was made: the engine had failed" in line]
    if has_savepoints:
        assert (outcome.code, outcome.why, outcome.savepoint, len(said)) == (0, "stopped", None, 1) and world.now < 1
    else:
        assert outcome.code == 1 and not said


def test_it_ends_at_the_end_offsets(world):
    until = {"s": {0: 40, 1: 0}}
    world.control.report("poll-s-0", poll(40, stopped=True))
    world.events = [
        (1, lambda: world.control.report("poll-s-1", poll(0, stopped=True, partition=1))),
        (2, lambda: world.control.save_checkpoint(0, point(0, 39))),
        (3, lambda: world.control.save_checkpoint(0, point(0, 40))),
    ]
    outcome = world.supervisor(lambda n: FakeJob(world), until=until).run()
    assert outcome.code == 0 and round(world.now) == 3


def test_a_savepoint_that_fails_leaves_the_stream_running(world):
    answers = iter([TandemError("no room"), "file:/sp"])

    def savepoint():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.events = [(1, lambda: world.control.request("savepoint")), (3, lambda: world.control.request("savepoint"))]
    outcome = world.supervisor(lambda n: FakeJob(world), savepoint=savepoint).run()
    assert (outcome.code, outcome.savepoint) == (0, "file:/sp")
    assert any("no room" in line for line in world.said) and world.now >= 3


def test_what_counts_as_delivered():
    assert delivered(PartReports.of({}), {}, 2)
    assert not delivered(PartReports.of({"poll-s-0": poll(5, stopped=True)}), {0: point(0, 5)}, 2), "every shard must have it"
    assert delivered(PartReports.of({"poll-s-0": poll(5, stopped=True)}), {0: point(0, 5), 1: point(1, 7)}, 2)
    assert not delivered(PartReports.of({"poll-s-0": poll(5)}), {0: point(0, 5)}, 1), "it may still poll"
    assert delivered(PartReports.of({"poll-s-0": poll(5, stopped=True, start=5)}), {}, 1), "nothing was read"
    assert delivered(PartReports.of({"poll-s-0": {"away": True}}), {}, 1)


def test_what_counts_as_reached():
    assert not reached({"s": {0: 5}}, PartReports.of({}), {}, 1)
    assert reached({"s": {0: 5}}, PartReports.of({"poll-s-0": poll(5, start=5)}), {}, 1)
    assert not reached({"s": {0: 5, 1: 5}}, PartReports.of({}), {0: point(0, 5)}, 1)


def test_a_stream_that_goes_on_has_reached_what_it_delivered_and_one_that_ends_has_saved_its_tiles():
    saved: Checkpoint = point(0, 5)
    unsaved: Checkpoints = {0: {**saved, "settled": False}}
    assert reached({"s": {0: 5}}, PartReports.of({"poll-s-0": poll(5)}), unsaved, 1)
    assert not delivered(PartReports.of({"poll-s-0": poll(5, stopped=True)}), unsaved, 1)
    assert delivered(PartReports.of({"poll-s-0": poll(5, stopped=True)}), {0: {**saved, "settled": True}}, 1)


def test_one_driver_per_name(tmp_path):
    assert running(tmp_path) is None
    with Driver(tmp_path).held():
        code = f"""
from pathlib import Path
from pipelines.streaming.driver import Driver, running
folder = Path({str(tmp_path)!r})
print(running(folder)["run"])
try:
    Driver(folder).held(0.1).__enter__()
except Exception as error:
    print(error)
"""
        driver = Driver(tmp_path)
        driver.publish(run="stream-1")
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[0] == "stream-1"
        assert "already runs" in done.stdout and "tandem stream stop" in done.stdout
    assert running(tmp_path) is None
    with Driver(tmp_path).held():
        pass


def test_a_held_stream_is_an_error(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from pipelines.streaming.driver import Driver
with Driver(Path({str(tmp_path)!r})).held():
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match="already runs"), Driver(tmp_path).held(0.1):
            pass
        other.kill()
        other.wait()
        with Driver(tmp_path).held(5):
            pass
    finally:
        other.kill()
        other.communicate()


def test_an_end_with_a_paused_partition_is_an_error_once_the_others_are_there(world):
    """FAULTS 9: on every engine; it said that all was delivered, or waited for ever."""
    control, until = world.control, {"s": {0: 60, 1: 40}}
    why = "s/1 is paused at offset 7: 9 of the last 10 records were rejected"
    control.report("poll-s-0", poll(50))
    control.report("poll-s-1", {**poll(7, partition=1), "paused": why})
    control.save_checkpoint(0, point(0, 50))
    world.events = [(5, lambda: control.save_checkpoint(0, point(0, 60)))]
    outcome = world.supervisor(lambda n: FakeJob(world), until=until).run()
    assert (outcome.code, outcome.why, outcome.restarts) == (1, why, 0)
    assert 5 <= world.now < 6 and world.jobs[0].stopped


def test_a_paused_partition_that_is_resumed_ends_well(world):
    control = world.control
    control.report("poll-s-0", poll(50))
    control.report("poll-s-1", {**poll(7, partition=1), "paused": "why"})
    control.save_checkpoint(0, point(0, 50))
    both = point(0, 60)
    both["partitions"]["s"]["1"] = {**both["partitions"]["s"]["0"], "next": 40}
    world.events = [(4, lambda: control.report("poll-s-1", poll(40, partition=1))), (6, lambda: control.save_checkpoint(0, both))]
    outcome = world.supervisor(lambda n: FakeJob(world), until={"s": {0: 60, 1: 40}}).run()
    assert (outcome.code, outcome.why) == (0, "all records up to the end offsets are delivered")


class UnheardJob(FakeJob):
    """One whose workers may be out of reach."""

    def unheard(self, parts):
        """As of a cluster."""
        return f"start a pool for {len(parts)} parts"


def test_parts_that_nobody_works_on_are_told_and_in_the_end_a_crash(world):
    """A worker that is out of reach: its job stays in RUNNING, and nothing comes."""
    world.control.report("partitions-s", {"source": "s", "unread": {"0": 5, "1": 5}})
    world.control.report("poll-s-0", poll(3))
    outcome = world.supervisor(lambda attempt: UnheardJob(world), limit=2).run()
    assert outcome.code == 1 and "no worker reads partition s/1, shard 0: start a pool for 2 parts" in outcome.why
    assert world.said[0] == "no worker reads partition s/1, shard 0 after 60 s: start a pool for 2 parts"
    assert len([line for line in world.said if "after 60 s" in line]) == 2, "once for each job"


def test_what_nobody_works_on_is_no_matter_where_all_is_heard_of(world):
    world.control.report("partitions-s", {"source": "s", "unread": {"0": 0}})
    world.control.report("poll-s-0", poll(0))
    job = UnheardJob(world)
    world.events = [
        (1000, lambda: world.control.request("stop")),
        (1001, lambda: world.control.report("poll-s-0", poll(0, stopped=True))),
    ]
    assert world.supervisor(lambda attempt: job).run().code == 0
    assert not [line for line in world.said if "nobody" in line]


def test_a_job_whose_worker_asks_for_it_is_started_anew(world, monkeypatch):
    asked = ["the engine restored too much"]
    monkeypatch.setattr(JobState, "asked_anew", lambda self, since: asked.pop() if asked else None)
    world.events = [(3.0, lambda: world.control.request("stop"))]
    outcome = world.supervisor(lambda attempt: FakeJob(world)).run()
    assert outcome.code == 0 and outcome.restarts == 1 and len(world.jobs) == 2 and world.jobs[0].stopped
    assert world.said[0].startswith("the engine failed: the engine restored too much; restarting from the checkpoint")


class EmbeddedJob(FakeJob):
    """One whose workers are ended whatever they do."""

    ends_hung_workers = True


def test_a_job_of_which_nothing_is_heard_is_started_anew_and_in_the_end_given_up(world):
    """It said "no news for N s", and stood still until somebody looked."""
    world.control.report("poll-s-0", poll(3))
    world.control.report("partitions-s", {"source": "s", "unread": {"0": 5}})
    outcome = world.supervisor(lambda attempt: EmbeddedJob(world), silent_seconds=60, limit=3, beat=1.0).run()
    assert outcome.code == 1 and outcome.restarts == 2 and all(job.stopped for job in world.jobs)
    assert outcome.why.endswith("last error: its workers have not reported for 60 s")
    assert 3 * 60 < world.now < 3 * 65


def test_what_reports_waits_or_cannot_be_ended_is_not_silent(world):
    """Each poll, each report of a wait, and each that a full disk did not take, shows that somebody is there."""
    waits = [
        lambda n: world.control.report("poll-s-0", {"away": True, "n": n}),
        lambda n: world.control.report("sink-0", {"waiting_for": "online store", "n": n}),
    ]
    world.events = [(50.0 * n, lambda n=n: waits[n % 2](n)) for n in range(1, 40)]
    world.events += [(2000.0, lambda: world.control.request("stop"))]
    job = EmbeddedJob(world)
    assert world.supervisor(lambda attempt: job, silent_seconds=60, beat=1.0, drain_seconds=1).run().restarts == 0
    world.control.clear("stop")
    world.events = [(world.now + 1000, lambda: world.control.request("stop"))]
    plain = FakeJob(world)
    assert world.supervisor(lambda attempt: plain, silent_seconds=60, beat=1.0, drain_seconds=1).run().restarts == 0


def test_silence_counts_what_was_watched_alone(world):
    """A driver that was stopped too, as by a closed lid, heard nothing for hours: that says nothing of the worker."""
    silence = Silence(world.control)
    world.control.report("sink-0", {})
    assert [silence.look(t) for t in (0.0, 0.5, 1.0, 2.5)] == [0.0, 0.0, 1.0, 2.5]
    assert silence.look(7200.0) == 4.5
    world.control.report("partitions-s", {"source": "s", "unread": {}})
    assert silence.look(7201.0) == 5.5, "which partitions there are is looked at by another step"
    world.control.report("sink-0", {})
    assert silence.look(7202.0) == 0.0


def test_a_full_disk_silences_nobody(world, monkeypatch):
    world.control.report("sink-0", {"n": 1})
    before = world.control.heard()

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipelines.streaming.state.job_state.write_text", full)
    world.control.report("sink-0", {"n": 2})
    assert world.control.heard() != before and world.control.reports()["sink-0"]["n"] == 1


def test_a_stream_whose_rows_another_folder_took_over_ends_and_one_whose_store_is_away_does_not(world):
    """Asked every ten seconds, and before each attempt."""
    asked = []

    def claim():
        asked.append(world.now)
        if world.now > 25:
            raise ConfigError("the rows of project 'x' are written from another data folder")
        if world.now > 15:
            raise StoreError("it is away")

    watch = while_ours(lambda: None, claim, world.control.fail, world.clock)
    outcome = world.supervisor(lambda attempt: FakeJob(world), watch=watch).run()
    assert (outcome.code, outcome.why) == (1, "the rows of project 'x' are written from another data folder")
    assert [round(at) for at in asked] == [10, 20, 30] and world.jobs[0].stopped


def test_an_attempt_on_rows_that_another_folder_took_over_is_the_last_one_and_starts_no_job(world):
    def refused():
        raise ConfigError("another data folder")

    def make(attempt):
        if attempt:
            still_ours(refused, world.control.fail)
        return FakeJob(world, after=1)

    outcome = world.supervisor(make).run()
    assert (outcome.code, outcome.why, len(world.jobs)) == (1, "another data folder", 1)


@pytest.mark.parametrize("refusal", [RightsError, OwnerError, FingerprintError])
def test_a_store_that_is_away_is_waited_for_and_one_that_refuses_is_not(refusal: type[StoreError]) -> None:
    said: list[str] = []
    errors = [StoreError("it is away"), StoreError("it is away"), None, StoreError("it is away"), refusal("it may not")]

    def do() -> None:
        if (error := errors.pop(0)) is not None:
            raise error

    patiently("start", do, said.append, lambda: None, pause=0.0)
    assert said == ["waiting to start: it is away"] and len(errors) == 2
    with pytest.raises(refusal, match="it may not"):
        patiently("start", do, said.append, lambda: None, pause=0.0)
