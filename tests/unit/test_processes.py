"""Processes are started in one place, run this installation's code wherever they start, and do not outlive us."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.lake.process_identity import ProcessId, started
from pipelines.lake.processes import let_go, start_child, start_detached, stop_child, tail
from transforms.errors import ConfigError
from transforms.own_program import module_command, tandem_command

ROOT = Path(__file__).resolve().parents[2]
UNSAFE = re.compile(r"python3? (?!-P )(-\w+ )*-m (pipelines|serving|transforms)\b")
STARTS = re.compile(r"\bPopen\(|\bos\.exec|\bos\.spawn|\bos\.fork|\bsys\.executable\b|\bmultiprocessing\b")


def test_one_place_starts_processes():
    files = [p for top in ("pipelines", "serving", "transforms", "tandem") for p in (ROOT / top).rglob("*.py")]
    found = {p.relative_to(ROOT).as_posix() for p in files if STARTS.search(p.read_text()) and p.parent.name != "testing"}
    # The command line has one home, below all; a server begins its own workers, for it never imports pipelines. The relay of logs
    # outlives who began it.
    assert found == {
        *("pipelines/lake/processes.py", "pipelines/lake/die_with_parent.py"),
        *("transforms/own_program.py", "serving/workers.py", "serving/log_relay.py"),
    }


@pytest.fixture
def strangers_folder(tmp_path):
    for name in ("tandem", "serving", "pipelines", "transforms"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger runs')")
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger runs')")
    return tmp_path


@pytest.mark.parametrize("python_path", ["", "."])
def test_children_are_ours_in_a_folder_that_has_modules_of_our_names(strangers_folder, python_path):
    def said(command: list[str]) -> str:
        env = {"PYTHONPATH": python_path, "PATH": "/usr/bin:/bin"}
        child = start_child(command, strangers_folder / "log", env, strangers_folder, new_log=True)
        assert child.wait(60) == 0 or command[-1] == "{}"
        return (strangers_folder / "log").read_text()

    assert "COMMAND [ARGS]" in said(tandem_command("--help"))
    assert "ServingSettings" in said(module_command("serving", "{}"))  # it misses what a server needs
    assert "COMMAND [ARGS]" in said(module_command("pipelines.cli", "--help"))


def test_what_the_docs_have_people_type_runs_ours_there(strangers_folder):
    """No page and no message has ``python -m pipelines...``, which in a folder with a ``pipelines`` of its own runs that."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    sources = [p for top in ("pipelines", "serving", "transforms", "tandem") for p in (ROOT / top).rglob("*.py")]
    typed = [
        f"{p.relative_to(ROOT)}: {line}" for p in (*pages, *sources) for line in p.read_text("utf-8").splitlines() if UNSAFE.search(line)
    ]
    assert typed == []
    words = [str(Path(sys.executable).with_name("tandem")), "-m", "pipelines.streaming.engines.worker_pool", "--help"]
    done = subprocess.run(words, cwd=strangers_folder, capture_output=True, text=True)
    assert "--service-port" in done.stdout, done.stderr


def test_children_run_the_code_beside_the_launcher_even_if_it_is_installed_nowhere(strangers_folder):
    copy = strangers_folder / "a copy"
    for name in ("tandem", "serving", "pipelines", "transforms"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pipelines" / "lake" / "where.py").write_text(
        "import sys, serving.request_errors\nprint(__name__, sys.argv, serving.request_errors.__file__)"
    )
    done = subprocess.run(module_command("pipelines.lake.where", "x", home=copy), cwd=strangers_folder, capture_output=True, text=True)
    where = copy / "pipelines" / "lake" / "where.py"
    assert done.stdout == f"__main__ {[str(where), 'x']} {copy / 'serving' / 'request_errors.py'}\n", done.stderr


def test_a_child_lives_on_when_the_thread_that_asked_for_it_ends(tmp_path):
    children: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: children.append(start_child(["sleep", "60"], tmp_path / "log")))
    thread.start()
    thread.join()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            children[0].wait(0.3)
    finally:
        assert stop_child(children[0], 0) == -9


def test_output_and_log_of_a_child(tmp_path):
    log, output = tmp_path / "logs" / "log", tmp_path / "out"
    log.parent.mkdir()
    log.write_text("before\n")
    script = "import sys; print('result'); print(sys.stdin.read(), file=sys.stderr)"
    assert start_child([sys.executable, "-c", script], log, output=output).wait(30) == 0
    assert output.read_text() == "result\n" and log.read_text() == "before\n\n"
    child = start_child([sys.executable, "-c", script], log, new_log=True, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(b"asked")
    child.stdin.close()
    assert child.wait(30) == 0 and sorted(log.read_text().split()) == ["asked", "result"]
    with pytest.raises(ConfigError, match="no-such-program is not a command on this machine"):
        start_child(["no-such-program"], log)


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert tail(log, 10) == ""
    log.write_bytes("before\nübel\n".encode())
    assert tail(log, 100) == "before\nübel\n" and tail(log, 100, 7) == "übel\n" and tail(log, 4) == "bel\n"
    assert tail(log, 5) == "\ufffdbel\n", "a character may be cut"


def test_who_is_let_go_of_leaves_the_process_table_when_the_next_one_is(tmp_path):
    def one() -> int:
        process = start_detached([sys.executable, "-c", "input()"], tmp_path / "log")
        let_go(process)
        return process.pid

    first = one()
    deadline = time.monotonic() + 30
    while started(first) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started(first) is None and Path(f"/proc/{first}").exists()  # a zombie
    one()
    assert not Path(f"/proc/{first}").exists()


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path):
    child = start_child(["sleep", "60"], tmp_path / "log")
    try:
        own = ProcessId.of(child.pid)
        assert own is not None and own.alive is True
        assert ProcessId(child.pid, "another start", own.host).alive is False
        assert ProcessId(child.pid, own.started, "another machine").alive is None
        assert ProcessId.of_manifest(own.for_manifest()) == own
        ticks = own.started.rpartition("-")[2]  # as manifests had it before the boot was part of it
        assert ProcessId(child.pid, ticks, own.host).alive is True
        assert ProcessId(child.pid, f"{ticks}1", own.host).alive is False
        assert ProcessId.of_manifest({}) is None
    finally:
        stop_child(child)
    assert own.alive is False and ProcessId.of(child.pid) is None
