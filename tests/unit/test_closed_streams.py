"""A command whose standard streams are closed, as some supervisors start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_works_and_no_file_of_its_own_stands_for_them(tmp_path: Path, closed: str) -> None:
    """What it printed, or wrote to stderr, went into the file that had got the number; ``tandem batch`` ended with exit code 1."""
    (tmp_path / "feature_store.yaml").write_text("project: x\n")
    (tmp_path / "tandem.yaml").write_text('data: data\ndemo: {events: "words:write"}\n')
    (tmp_path / "features.py").write_text(
        "from tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours\n"
        "s = EventSource(name='s', fields=[Field('i', 'string', required=True)], event_time='at', tie_breaker='i')\n"
        "g = FeatureGroup(name='g', source=s, entity=Entity('i'), hop=hours(1), ttl=hours(2), aggregates=[Count(over=hours(1))])\n"
    )
    (tmp_path / "words.py").write_text(
        "import os, subprocess, sys\n\n\ndef write(data, *given):\n    with open('kept', 'wb') as file:\n        assert file.fileno() > 2\n"
        "        print('hello')\n        os.write(1, b'out')\n        os.write(2, b'err')\n"
        "    subprocess.run([sys.executable, 'child.py'], check=True)\n    return {'s': 1}\n"
    )
    (tmp_path / "child.py").write_text(
        "import os\nfile = open('of_child', 'wb')\nassert file.fileno() > 2\nos.write(1, b'out')\nos.write(2, b'err')\n"
    )
    command = f'"{sys.executable}" "{ROOT}/tandem/__main__.py" events --repo . --start 2013-01-01 --end 2013-01-02 --json {closed}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "TANDEM_REPO": ""})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "of_child").read_bytes() == b""
