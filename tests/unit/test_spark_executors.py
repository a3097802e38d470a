"""Executors that never begin to work end a batch job on Spark; those that Spark will replace do not. Logs as Spark 3.5.6 writes them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipelines.engines import portable_job
from pipelines.engines.portable_job import JvmProgram, JvmRunner
from pipelines.engines.queue_patience import QueuePatience
from pipelines.streaming.engines.spark_executors import Executors
from transforms.errors import DataError

AT = "26/11/30 20:12:43 INFO StandaloneAppClient$ClientEndpoint: Executor"
GOOD, BAD, WORSE = "10.77.0.2", "10.77.0.3", "10.77.0.4"
NONE_STARTS = "executors were lost, the last one: Command exited with code 1; why is in its stderr, in the folder 'work' of Spark's worker"


def added(number: int, host: str) -> str:
    where = f"app-20261130190044-0000/{number}"
    return (
        f"{AT} added: {where} on worker-20261130190000-{host}-7078 ({host}:7078) with 1 core(s)\n"
        f"26/11/30 20:12:43 INFO StandaloneSchedulerBackend: Granted executor ID {where} on hostPort {host}:7078 with 1 core(s),"
        " 1024.0 MiB RAM\n"
        f"{AT} updated: {where} is now RUNNING\n"
    )


def registered(number: int, host: str) -> str:
    return (
        "26/11/30 20:12:45 INFO StandaloneSchedulerBackend$StandaloneDriverEndpoint: Registered executor"
        f" NettyRpcEndpointRef(spark-client://Executor) ({host}:34562) with ID {number},  ResourceProfileId 0\n"
        f"26/11/30 20:12:45 INFO BlockManagerMasterEndpoint: Registering block manager {host}:41263 with 434.4 MiB RAM,"
        f" BlockManagerId({number}, {host}, 41263, None)\n"
    )


def ended(number: int, how: str = "EXITED (Command exited with code 1)") -> str:
    where = f"app-20261130190044-0000/{number}"
    return (
        f"{AT} updated: {where} is now {how}\n"
        f"26/11/30 20:12:43 INFO StandaloneSchedulerBackend: Executor {where} removed: Command exited with code 1\n"
        f"26/11/30 20:12:43 INFO BlockManagerMaster: Removal of executor {number} requested\n"
    )


def lost(number: int, host: str) -> str:
    killed = "Command exited with code 137"
    return ended(number, f"EXITED ({killed})") + f"26/11/30 20:12:43 ERROR TaskSchedulerImpl: Lost executor {number} on {host}: {killed}\n"


def works(number: int, host: str) -> str:
    return added(number, host) + registered(number, host)


def fails(numbers: Iterable[int], *hosts: str) -> str:
    return "".join(added(n, hosts[i % len(hosts)]) + ended(n) for i, n in enumerate(numbers))


def read(log: str) -> str:
    executors = Executors()
    executors.read(io.StringIO(log))
    return executors.none_starts()


TEN = range(10)
TEN_LOST = "".join(works(n, f"10.77.1.{n}") for n in TEN) + "".join(lost(n, f"10.77.1.{n}") for n in TEN)
REPLACING = "".join(added(n + 10, f"10.77.1.{n}") for n in TEN)


@pytest.mark.parametrize(
    "log",
    [
        fails(range(20), BAD) + added(20, BAD),
        fails(range(20), BAD, WORSE),
        works(0, GOOD) + lost(0, GOOD) + fails(range(1, 21), GOOD),
        # Another fails more slowly, and has done so before.
        fails(range(3), WORSE) + added(3, WORSE) + fails(range(4, 21), BAD),
        TEN_LOST + REPLACING + "".join(ended(n + 10) for n in TEN) + fails(range(20, 30), *(f"10.77.1.{n}" for n in TEN)),
        "".join(added(n, BAD) + ended(n, "FAILED (java.io.IOException: No space left on device)") for n in range(19)) + fails([19], BAD),
    ],
    ids=["one host", "two hosts", "worked before", "one is slow", "none can be replaced", "full disk"],
)
def test_executors_of_which_none_begins_to_work_are_not_waited_for(log: str) -> None:
    assert read(log) == NONE_STARTS


@pytest.mark.parametrize(
    "log",
    [
        "",
        fails(range(19), BAD) + added(19, BAD),
        works(0, GOOD) + fails(range(1, 500), BAD),
        fails(range(20), BAD) + works(20, GOOD),
        fails(range(1, 500), BAD) + works(500, GOOD) + fails(range(501, 900), BAD),
        works(0, GOOD) + works(1, WORSE) + lost(0, GOOD) + fails(range(2, 100), BAD),
        TEN_LOST,
        TEN_LOST + REPLACING,
        TEN_LOST + "".join(ended(n, "LOST (worker lost: Not receiving heartbeat for 60 seconds)") for n in TEN) + REPLACING,
        # The healthy host's only one is killed, and the other fails while it is replaced.
        works(0, GOOD) + fails(range(1, 500), BAD) + lost(0, GOOD) + added(500, GOOD) + fails(range(501, 600), BAD),
        "".join(added(n, GOOD) + ended(n, "KILLED") for n in range(30)),
        # At WARN, as somebody may have it, Spark says no word of those that begin to work.
        "".join(f"26/11/30 20:12:43 ERROR TaskSchedulerImpl: Lost executor {n} on {GOOD}: Command exited with code 1\n" for n in range(40)),
        added(0, BAD) + ended(0) * 40,
    ],
    ids=[
        "nothing yet", "few", "a healthy one beside", "begins at last", "begins late", "one of two lost", "ten lost at once",
        "ten that are replaced", "ten with their hosts", "replaced beside failures", "not wanted", "levels", "the same id again",
    ],
)  # fmt: skip
def test_a_job_that_spark_may_finish_is_not_ended(log: str) -> None:
    assert read(log) == ""


@pytest.mark.parametrize("cut", [7, 64, 1000])
def test_a_log_is_followed_as_it_grows_and_each_line_is_taken_once(tmp_path: Path, cut: int) -> None:
    """However it is cut: a line that is not whole yet is no line."""
    path, executors, said = tmp_path / "engine.log", Executors(), []
    log = works(0, GOOD) + fails(range(1, 60), BAD) + lost(0, GOOD) + fails(range(60, 80), BAD)
    path.touch()
    with path.open() as reader, path.open("a") as writer:
        for begin in range(0, len(log), cut):
            writer.write(log[begin : begin + cut])
            writer.flush()
            before = reader.tell()
            executors.read(reader)
            assert reader.tell() - before == len(log[begin : begin + cut])
            said.append(executors.none_starts())
    assert said[-1] == NONE_STARTS
    assert len(log) - len(ended(79)) <= (said.index(NONE_STARTS) + 1) * cut, "not before the last of them"


def test_what_was_said_long_ago_counts() -> None:
    others = "26/11/30 20:13:00 INFO TaskSetManager: Finished task 1.0 in stage 1.0 (TID 1)\n" * 50_000
    assert len(others) > 3 << 20
    assert read(works(0, GOOD) + others + fails(range(1, 100), BAD) + others) == ""


def test_a_job_whose_executors_do_not_start_is_ended_while_its_jvm_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable_job, "_LOOK_SECONDS", 0.01)
    log = tmp_path / "engine.log"
    log.write_text(fails(range(20), BAD))
    runner = JvmRunner(JvmProgram("Spark", "spark", "Main"), tmp_path, "job", b"")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pytest.raises(DataError) as error:
            runner._ended(child, log)
        assert child.poll() is None
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        log.write_text("")
        assert runner._ended(child, log) == 0
    assert str(error.value) == f"the batch job failed on Spark: {NONE_STARTS}; its full output is in {log}"


# ---------------------------------------------------------------------------------------------------------------- a cluster without room

NOTHING = (
    "26/11/30 20:12:58 WARN TaskSchedulerImpl: Initial job has not accepted any resources; check your cluster UI to ensure that workers are"
    " registered and have sufficient resources\n"
)
WAITS = (
    "Spark has no executor for the batch job, which waits for 30 minutes at most (--wait-minutes): the cluster's cores or memory are taken,"
    " or are less than one executor needs"
)


def waited(logs: Iterable[tuple[float, str]], minutes: float = 30) -> tuple[list[str], list[str]]:
    """What is said, and the times at which the job's time is over, where the log has these more lines at these minutes."""
    executors, said, ends, at = Executors(), list[str](), list[str](), [0.0]
    patience = QueuePatience("Spark", minutes * 60, said.append, lambda: at[0])
    for minute, log in logs:
        at[0] = minute * 60 + 1e6
        executors.read(io.StringIO(log))
        if why := patience.look(executors.none_works(), executors.worked()):
            ends.append(f"{minute:g}: {why}")
    return said, ends


def every_ten_seconds(upto: float, log: str = NOTHING) -> list[tuple[float, str]]:
    """Spark says it every 15 s, and the log is looked at every 10."""
    return [(n / 6, log if n % 3 != 1 else "") for n in range(int(upto * 6))]


def test_a_job_that_the_cluster_gives_nothing_says_so_once_and_ends() -> None:
    said, ends = waited([(0, ""), *every_ten_seconds(31)])
    assert said == [WAITS]
    assert ends[0] == (
        "30: no executor worked for it for 30 minutes: the cluster's cores or memory are taken, or are less than one executor needs; free"
        " some, or let it wait longer (--wait-minutes)"
    )


@pytest.mark.parametrize(
    "logs",
    [
        [(n, "") for n in range(600)],
        [*every_ten_seconds(29), *((29 + n, "") for n in range(600))],  # at WARN: nothing more is said when it begins
        [*every_ten_seconds(29), (29.1, works(0, GOOD)), *((30 + n, "") for n in range(600))],
        [*every_ten_seconds(20), *((21 + n, "") for n in range(5)), *((25 + m, log) for m, log in every_ten_seconds(29))],
    ],
    ids=["never waits", "begins, unsaid", "begins", "waits again"],
)
def test_a_job_that_is_given_something_in_time_is_not_ended(logs: list[tuple[float, str]]) -> None:
    said, ends = waited(logs)
    assert ends == [] and len(said) <= 1


def test_a_job_that_lost_all_its_executors_waits_as_long() -> None:
    gone = works(0, GOOD) + lost(0, GOOD)
    assert waited([(0, works(0, GOOD)), (100, lost(0, GOOD)), *((100 + n, "") for n in range(1, 30))]) == ([WAITS], [])
    assert [end.partition(":")[0] for end in waited([(0, gone), (29, ""), (30, "")])[1]] == ["30"]


def idle(*numbers: int) -> str:
    """Dynamic allocation gives them back."""
    which = ",".join(map(str, numbers))
    return (
        f"26/12/01 00:40:23 INFO StandaloneSchedulerBackend: Actual list of executor(s) to be killed is {which.replace(',', ', ')}\n"
        f"26/12/01 00:40:23 INFO ExecutorAllocationManager: Executors {which} removed due to idle timeout.\n"
    )


def killed(*numbers: int) -> str:
    return "".join(
        f"26/12/01 00:40:28 INFO TaskSchedulerImpl: Executor {n} on {GOOD} killed by driver.\n"
        f"26/12/01 00:40:28 INFO ExecutorMonitor: Executor {n} is removed. Remove reason statistics: (gracefully decommissioned: 0,"
        " decommision unfinished: 0, driver killed: 1, unexpectedly exited: 0).\n"
        f"26/12/01 00:40:28 INFO DAGScheduler: Executor lost: {n} (epoch 0)\n"
        for n in numbers
    )


DECOMMISSIONED = f"26/12/01 00:40:28 INFO TaskSchedulerImpl: Executor 0 on {GOOD} is decommissioned after 0.3 s.\n"
BACKLOG = (
    "26/11/30 20:14:00 INFO ExecutorAllocationManager: Requesting 1 new executor because tasks are backlogged (new desired total will be 1"
    " for resource profile id: 0)\n"
)


@pytest.mark.parametrize("at_work", [0.05, 0.5, 0.8], ids=["between two looks", "short", "as long as it is forgotten"])
def test_any_work_ends_the_wait(at_work: float) -> None:
    """However short: the next wait has its whole time."""
    begun, gone = 29.55, 29.55 + at_work
    works_once = works(0, GOOD)
    looks = [n / 6 for n in range(90 * 6)]
    logs = [(m, NOTHING if m < begun else "") for m in looks]
    for when, log in ((begun, works_once), (gone, lost(0, GOOD))):
        at = next(i for i, (m, _) in enumerate(logs) if m >= when)
        logs[at] = (logs[at][0], logs[at][1] + log)
    said, ends = waited(logs)
    assert said == [WAITS]
    assert gone + 29.8 <= float(ends[0].partition(":")[0]) <= gone + 30.5


@pytest.mark.parametrize("seconds", [5, 45, 75])
def test_executors_that_work_now_and_then_are_waited_for(seconds: float) -> None:
    """Some seconds of every 80, for ten hours; looked at every 10 s."""
    steps = sorted(
        [(80.0 * n, works(n, GOOD)) for n in range(450)] + [(80.0 * n + seconds, lost(n, GOOD)) for n in range(450)],
    )
    logs, taken = list[tuple[float, str]](), 0
    for at in range(0, 36_000, 10):
        upto = sum(when <= at for when, _ in steps[taken:]) + taken
        logs.append((at / 60, "".join(log for _, log in steps[taken:upto])))
        taken = upto
    assert waited(logs)[1] == []


def test_executors_that_are_given_and_can_run_no_task_end_no_wait() -> None:
    assert [e.partition(":")[0] for e in waited([(0, works(0, GOOD)), *((n / 4, NOTHING) for n in range(1, 122))])[1]] == ["30.25"]


@pytest.mark.parametrize(
    "before",
    [
        works(0, GOOD) + idle(0) + killed(0),
        works(0, GOOD) + works(1, WORSE) + idle(0, 1) + killed(1, 0),
        works(0, GOOD) + works(1, WORSE) + lost(1, WORSE) + idle(0) + killed(0),
        works(0, GOOD) + idle(0) + DECOMMISSIONED,
        works(0, GOOD) + idle(0) + ended(0, "EXITED (Command exited with code 0)"),
        works(0, GOOD) + BACKLOG + added(1, WORSE) + registered(1, WORSE) + idle(1) + killed(1) + killed(0) + idle(0),
        works(0, GOOD) + ended(0, "KILLED"),
    ],
    ids=["one", "two", "one was lost before", "decommissioned", "ends by itself", "said after it", "killed"],
)
@pytest.mark.parametrize("minutes", [0, 30])
def test_executors_that_spark_gave_back_are_not_waited_for_until_there_is_work(before: str, minutes: float) -> None:
    assert waited([(0, before), *((n, "") for n in range(1, 300))], minutes) == ([], [])
    said, ends = waited([(0, before), *((n, "") for n in range(1, 100)), (100, BACKLOG), *((100 + n, "") for n in range(1, 40))], minutes)
    assert len(said) == (minutes > 0) and ends[0].startswith(f"{100 + minutes:g}: ")
    assert waited([(0, before), (100, BACKLOG + added(7, GOOD)), (101, registered(7, GOOD)), (300, "")], minutes) == ([], [])


def test_one_that_is_lost_beside_those_given_back_is_waited_for() -> None:
    assert waited([(0, works(0, GOOD) + works(1, WORSE) + idle(0) + killed(0)), (1, lost(1, WORSE)), (2, "")])[0] == [WAITS]
    assert waited([(0, works(0, GOOD)), (1, DECOMMISSIONED), (2, "")])[0] == [WAITS], "its host leaves"
    assert waited([(0, works(0, GOOD) + idle(0)), (1, BACKLOG), (2, killed(0))])[0] == [WAITS], "there was work before it had gone"


def test_executors_that_are_slow_to_start_were_given() -> None:
    """As on a busy machine: Spark says the same of them."""
    assert waited([(0, added(0, GOOD)), *every_ten_seconds(40), (41, registered(0, GOOD)), (42, "")]) == ([], [])
    assert waited([(0, added(0, GOOD) + ended(0)), *every_ten_seconds(29)])[0] == [WAITS]


def test_no_patience_is_an_end_at_once_and_no_limit_is_none() -> None:
    assert [end.partition(",")[0] for end in waited([(3, NOTHING)], 0)[1]] == [
        "3: no executor worked for it for 0 minutes: the cluster's cores or memory are taken"
    ]
    said, ends = waited(every_ten_seconds(600), float("inf"))
    assert ends == [] and len(said) == 1
