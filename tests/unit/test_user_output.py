"""What a repository's code prints while a command works goes to stderr, and the command's result alone to stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRINTS = (
    "import os, subprocess, sys\n\n\ndef prints(where):\n    print(f'Python in {where}')\n    os.write(1, f'C in {where}\\n'.encode())\n"
    "    subprocess.run([sys.executable, '-c', f'print(\"child in {where}\")'], check=True)\n"
)


def ran(code: str, folder: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    start = "import os, sys, threading\nfrom pipelines.lake.user_output import result_stream, stdout_to_stderr\n"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, cwd=folder, env=own, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)


@pytest.mark.parametrize("options", [["check", "--no-cache", "--json"], ["plan", "--json"]])
def test_a_command_prints_its_json_alone(tmp_path: Path, options: list[str]) -> None:
    """Modules and preprocessing of ``tandem check`` printed before it."""
    (tmp_path / "feature_store.yaml").write_text(
        "project: x\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\nentity_key_serialization_version: 3\n"
    )
    (tmp_path / "tandem.yaml").write_text("data: data\n")
    (tmp_path / "loud.py").write_text(PRINTS)
    (tmp_path / "preprocessing.py").write_text(
        "import loud\n\n\ndef scaled(inputs):\n    loud.prints('preprocessing')\n    return {'size': inputs['count_1h']}\n"
    )
    (tmp_path / "features.py").write_text(
        "import loud\nfrom tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours\n"
        "loud.prints('features')\n"
        "s = EventSource(name='s', fields=[Field('i', 'string', required=True)], event_time='at', tie_breaker='i')\n"
        "g = FeatureGroup(name='g', source=s, entity=Entity('i'), hop=hours(1), ttl=hours(2),"
        " aggregates=[Count(over=hours(1))], preprocessing_fn='preprocessing:scaled')\n"
    )
    command = [sys.executable, "-m", "tandem", *options, "--repo", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert isinstance(json.loads(done.stdout), dict), done.stdout
    assert all(f"{who} in features" in done.stderr for who in ("Python", "C", "child"))
    if options[0] == "check":
        assert done.returncode == 0 and all(f"{who} in preprocessing" in done.stderr for who in ("Python", "C", "child")), done.stderr


def test_of_threads_within_it_at_once_the_last_one_puts_the_streams_back(tmp_path: Path) -> None:
    """The first that left put them back under the second, who left standard output at stderr for good."""
    code = """
a, b = stdout_to_stderr(), stdout_to_stderr()
before = sys.stdout
a.__enter__()
b.__enter__()
a.__exit__(None, None, None)
print("in Python"); os.write(1, b"in C\\n")
print("result", file=result_stream())
b.__exit__(None, None, None)
assert sys.stdout is before
print("out"); sys.stdout.flush(); os.write(1, b"of C\\n")

def work():
    for _ in range(200):
        with stdout_to_stderr():
            os.write(1, b"x")
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
os.write(1, b"end\\n")
print(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 4)
"""
    done = ran(code, tmp_path)
    assert done.stdout.splitlines() == ["result", "out", "of C", "end", "4"], done
    assert done.stderr == "in Python\nin C\n" + "x" * 800


def test_a_stdout_of_its_own_is_put_back_and_takes_the_result(tmp_path: Path) -> None:
    """As notebooks and test runners have: no file, or one that is not the first descriptor."""
    code = """
import io
real, sys.stdout = sys.stdout, io.StringIO()
own = sys.stdout
with stdout_to_stderr():
    print("in Python"); os.write(1, b"in C\\n")
    print("result", file=result_stream())
assert sys.stdout is own and own.getvalue() == "result\\n", own.getvalue()
sys.stdout = None
with stdout_to_stderr():
    os.write(1, b"in C\\n")
    assert result_stream() is None
sys.stdout = real
print("out")
"""
    done = ran(code, tmp_path)
    assert (done.stdout, done.stderr) == ("out\n", "in Python\nin C\nin C\n")


def test_what_cannot_be_written_hides_no_error_and_leaves_the_streams_as_they_were(tmp_path: Path) -> None:
    """The flush stood before the streams were put back: an error of it left them, and its own stood for the body's."""
    code = """
kept = sys.stdout
full = os.open("/dev/full", os.O_WRONLY)
try:
    with stdout_to_stderr():
        os.dup2(full, 1)
        kept.write("a remark of who had kept the stream")
        raise KeyError("mine")
except KeyError as error:
    assert error.args == ("mine",)
assert sys.stdout is kept
os.write(1, b"out")
os._exit(0)
"""
    done = ran(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "out"), done.stderr


def test_a_result_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = ran("with stdout_to_stderr():\n    print('result', file=result_stream())\n", tmp_path, stdout=full.fileno())
    assert done.returncode != 0 and "No space left" in done.stderr


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_is_left_alone(tmp_path: Path, closed: int) -> None:
    code = f"""
os.close({closed})
with stdout_to_stderr():
    try:
        os.fstat({closed})
    except OSError:
        pass
    else:
        raise SystemExit("a file has its number")
os.write({2 if closed == 1 else 1}, b"out")
os._exit(0)
"""
    done = ran(code, tmp_path)
    assert (done.stderr if closed == 1 else done.stdout) == "out" and not done.returncode, done
