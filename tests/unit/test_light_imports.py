"""What must stay light to import: the vocabulary, and the command line's start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow", "tensorflow_transform", "tfx", "tfx_bsl", "apache_beam", "feast", "pandas", "duckdb")


@pytest.mark.parametrize(
    "module", ["transforms", "transforms.definitions", "pipelines", "serving", "pipelines.cli", "pipelines.streaming.state.job_state"]
)
def test_import_loads_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert loaded == [], f"import {module} loads {', '.join(loaded)}"
