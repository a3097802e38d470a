"""What counts as a rise of what a process or a folder holds (tests/prove/held.py): a leak does, a saw's teeth do not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prove import held
from tests.prove.held import LEAST_SECONDS, Life, Watch, size


def verdicts(figure: str, at: Callable[[float], float], minutes: float = 10.0, name: str = "a worker") -> list[str]:
    points = [(float(s), {figure: at(s / 60)}) for s in range(0, int(minutes * 60), 10)]
    return [row["verdict"] for row in Life(name, points).slopes()]


@pytest.mark.parametrize(
    ("figure", "at", "verdict"),
    [
        ("memory MB", lambda minute: 300.0, "flat"),
        ("memory MB", lambda minute: 300.0 + 8.0 * minute, "RISES"),
        ("memory MB", lambda minute: min(300.0, 100.0 + 60.0 * minute), "flat"),  # it warms up, which takes less than the first part
        ("MB", lambda minute: 30.0 + 12.0 * (minute % 1.5), "flat"),
        ("MB", lambda minute: 30.0 + 12.0 * (minute % 1.5) + 2.0 * minute, "RISES"),
        ("MB", lambda minute: 40.0 - 2.0 * minute, "flat"),
        ("open files", lambda minute: 40.0 + minute, "RISES"),
        ("sockets", lambda minute: 9.0 + (int(minute * 6) % 2), "flat"),
        ("threads", lambda minute: 20.0 + 0.5 * minute, "RISES"),
    ],
)
def test_a_leak_rises_and_a_saw_does_not(figure: str, at: Callable[[float], float], verdict: str) -> None:
    assert verdicts(figure, at) == [verdict]


def test_a_heap_that_grows_has_no_further_room_than_others() -> None:
    """Once the half of a heap that nobody collected counted as a step towards its bound."""
    assert verdicts("memory MB", lambda minute: 174.0 + 3.0 * minute, 24.0, "the broker's JVM") == ["RISES"]


def test_lives_are_those_of_processes_and_short_ones_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(held, "monotonic", lambda: now[0])
    (tmp_path / "state").write_bytes(bytes(3_000_000))
    running = {"writer": os.getpid()}
    watch = Watch(lambda: running, {"state": ("writer", lambda: size(tmp_path.rglob("*"))), "other": ("nobody", lambda: 1.0)}, every=1e6)
    try:
        for _ in range(12):
            watch.look()
            now[0] += LEAST_SECONDS / 12
        assert watch.rows() == [], "not yet"
        watch.look()
        rows = watch.rows()
        assert {row["what"] for row in rows} == {f"writer: {what}" for what in held.held(os.getpid())} | {"state: MB"}
        assert next(row for row in rows if row["what"] == "state: MB")["level"] == 3.0
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            running["writer"] = child.pid
            watch.look()
        assert [life.name for life in watch.lives.values()] == ["writer", "state", "writer", "state"]
    finally:
        watch.close()


def test_a_watch_that_has_ended_by_itself_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()

    def find() -> dict[str, int]:
        looked.set()
        raise OSError("gone")

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    watch = Watch(find, {}, every=0.001)
    assert looked.wait(60)
    watch._thread.join(60)
    with pytest.raises(RuntimeError, match="nobody looked"):
        watch.close()
