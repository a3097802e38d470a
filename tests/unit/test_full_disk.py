"""What a full disk refuses is one line that says what to do, and leaves nothing half-written behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.lake.private import write_private
from pipelines.project.mistakes import kept_trace, of_system
from serving.api_keys import add_key, read_keys

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2024, 5, 1, tzinfo=UTC)


def in_a_child_with_little_room(work: str, folder: Path, size: int) -> str:
    """What a process says that may write files of ``size`` bytes at most."""
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); from pathlib import Path; {work}"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_a_full_disk_is_told_with_what_to_do() -> None:
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/x")):
        line = of_system(error)
        assert line.endswith("then run the same command again") and str(error.strerror) in line and "\n" not in line
    assert of_system(OSError(errno.EDQUOT, "quota", "/data/x")).startswith("/data/x: ")
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):  # a bare "[Errno 13] Permission denied: '.../.lock'" says no fix
        line = of_system(OSError(number, os.strerror(number), "/data/runs/.lock"))
        assert line.startswith(f"/data/runs/.lock: {os.strerror(number)}: ") and line.endswith("or choose another folder (--data)")
    assert of_system(FileNotFoundError(errno.ENOENT, "No such file", "a")) == "[Errno 2] No such file: 'a'"


def test_only_what_writes_the_cache_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder beside the cache, or above it, is no cache; nor is a file missing that lies in it a folder that cannot be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/app/.cache")
    assert of_system(OSError(errno.EROFS, os.strerror(errno.EROFS), "/srv/app")).endswith("or choose another folder (--data)")
    missing = "/srv/app/.cache/tandem/maven/a.jar"
    assert of_system(FileNotFoundError(errno.ENOENT, "No such file", missing)) == f"[Errno 2] No such file: {missing!r}"


def test_a_trace_that_cannot_be_kept_does_not_hide_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_trace(ValueError("odd"))
    place = Path(kept.removeprefix("full traceback: "))
    assert "ValueError: odd" in place.read_text()
    place.unlink()
    work = "from pipelines.project.mistakes import kept_trace; print(kept_trace(ValueError('odd' * 1000)))"
    assert "could not be saved" in in_a_child_with_little_room(work, tmp_path, 16)


@pytest.mark.parametrize("limit", [0, 20])
def test_what_was_not_written_whole_is_not_there(tmp_path: Path, limit: int) -> None:
    add_key(tmp_path / "keys.json", "a", ["admin"], NOW)
    write_private(tmp_path / "HEAD", "old\n", durable=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    work = (
        "from datetime import UTC, datetime\nfrom serving.api_keys import add_key\nfrom pipelines.lake.private import write_private\n"
        "for what in (lambda d: add_key(d / 'keys.json', 'b', ['admin'], datetime(2024, 5, 1, tzinfo=UTC)),\n"
        "             lambda d: write_private(d / 'HEAD', 'new' * 100, durable=True)):\n"
        "    try:\n        what(Path(sys.argv[1]))\n    except OSError as error:\n        print(error.errno)\n"
    )
    said = in_a_child_with_little_room("\n" + work, tmp_path, limit)
    assert said.split() == [str(errno.EFBIG)] * 2, said
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert [k.name for k in read_keys(tmp_path / "keys.json")] == ["a"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit, "the limit is the child's"


def test_a_dry_run_of_an_erasure_without_room_for_its_copies_is_one_line_and_leaves_none(tmp_path: Path) -> None:
    work = (
        "from pipelines.forgetting.dry_run_folder import dry_run_folder\n"
        "with dry_run_folder(Path(sys.argv[1])) as folder:\n    (folder / 'copy').write_bytes(bytes(1000))\n"
    )
    said = in_a_child_with_little_room(work, tmp_path, 100).splitlines()[-1]
    assert f"--dry-run has no room for its copies in {tmp_path} (" in said and said.endswith("make room there")
    assert list(tmp_path.iterdir()) == []
