"""The watch as processes of their own: two at once, beside a training by hand, killed, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.lake.process_identity import started
from pipelines.watch.watch_job import Watch
from tests.integration.fake_tandem import MODEL, champion
from tests.integration.watch_world import DRIFT, InProcess, World
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


DRIVER = """
import signal, sys, threading
from datetime import UTC, datetime
from pathlib import Path
from pipelines.watch.child_commands import Children
from pipelines.watch.watch_job import Watch
from tests.integration.watch_world import World
world = World.__new__(World)
world.root, world.settings = Path(sys.argv[1]), {}
world.repo, world.data = world.root / "repo", world.root / "data"
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
commands = Children(world.repo, world.data, stop, [sys.executable, "-m", "tests.integration.fake_tandem"])
watch = Watch(world.subject, commands, lambda: datetime.now(UTC), lambda line: print(line, flush=True))
watch.run(stop, wait=(lambda until: True) if "--once" in sys.argv else None)
"""


@contextlib.contextmanager
def process(world: World, *words: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(world.root), *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_two_watches_at_once_start_one_training(world: World) -> None:
    world.will_find(DRIFT)
    world.order("train", "wait")
    with process(world, "--once") as one, process(world, "--once") as other:
        until(lambda: "train" in world.commands())
        # One of them trains; the other comes to its end meanwhile.
        ended = until(lambda: [p for p in (one, other) if p.poll() is not None])
        assert ended[0].returncode == 0
        world.order("train", None)
        assert one.wait(60) == other.wait(60) == 0
    assert world.commands().count("train") == 1 == len(world.runs("retrain")) and champion(world.data) == 2
    with process(world, "--once") as third:
        assert third.wait(60) == 0
    assert world.commands().count("train") == 1


def test_while_somebody_trains_by_hand_the_watch_waits(world: World) -> None:
    world.will_find(DRIFT)
    world.order("train", "wait")
    words = ["train", "--repo", str(world.repo), "--data", str(world.data)]
    span = ["--start", "2013-01-03T00:00:00+00:00", "--end", "2013-01-13T00:00:00+00:00"]
    hand = subprocess.Popen([sys.executable, "-m", "tests.integration.fake_tandem", *words, *span], cwd=ROOT)
    try:
        until(lambda: [r for r in world.runs("train") if r["status"] == "running"])
        with process(world, "--once") as child:
            out, _ = child.communicate(timeout=60)
        assert "a training is running: train-" in out and world.commands().count("train") == 1
        world.order("train", None)
        assert hand.wait(60) == 0
    finally:
        hand.kill()
        hand.wait()
    with process(world, "--once") as child:
        child.communicate(timeout=60)
    assert world.commands().count("train") == 1 and champion(world.data) == 1


@pytest.mark.parametrize("step", ["batch", "train", "promote"])
def test_killed_in_the_middle_its_child_dies_and_the_next_start_completes_it(world: World, step: str) -> None:
    world.will_find(DRIFT)
    world.order(step, "wait")
    with process(world, "--once") as child:
        (running,) = until(lambda: [r for r in world.runs(step) if r["status"] == "running"])
        child.send_signal(signal.SIGKILL)
        child.wait()
        until(lambda: started(running["pid"]) is None)
    assert champion(world.data) == 1
    assert [r["status"] for r in world.runs("retrain")] == ["killed"]
    world.order(step, None)
    with process(world, "--once") as child:
        assert child.wait(60) == 0
    (run,) = world.runs("retrain")
    assert (run["status"], run["outcome"], run["tries"]) == ("complete", "promoted", 2) and champion(world.data) == 2
    assert world.commands().count("train") == (2 if step == "train" else 1)
    assert len(list((world.data / "models" / MODEL).glob("[0-9]*"))) == 2


def test_a_child_that_is_killed_is_a_failure_that_is_gone_on_with(world: World) -> None:
    world.will_find(DRIFT)
    world.order("train", "kill")
    with process(world, "--once") as child:
        out, _ = child.communicate(timeout=60)
    assert "tandem train failed (exit code -9)" in out and world.runs("retrain")[0]["status"] == "failed"
    later = datetime.now(UTC) + timedelta(minutes=31)
    Watch(world.subject, InProcess(world), lambda: later, lambda line: None).round()
    assert champion(world.data) == 2 and world.runs("retrain")[0]["tries"] == 2


def test_sigterm_ends_it_in_order_and_the_next_start_goes_on(world: World) -> None:
    world.will_find(DRIFT)
    world.order("train", "wait")
    with process(world) as child:
        (running,) = until(lambda: [r for r in world.runs("train") if r["status"] == "running"])
        child.terminate()
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0 and "stopping; a retraining in progress" in out
    assert started(running["pid"]) is None
    (run,) = world.runs("retrain")
    assert run["status"] == "killed" and run["asked_to_stop"] and run["tries"] == 0
    world.order("train", None)
    with process(world) as child:
        until(lambda: champion(world.data) == 2)
        child.terminate()
        assert child.wait(60) == 0
