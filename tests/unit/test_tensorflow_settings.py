"""TensorFlow's environment has one home, and whoever loads a user's code has settled it before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transforms.tensorflow_settings import SETTINGS, settle_tensorflow

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_set_stays_and_the_rest_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    settle_tensorflow()
    assert {n: os.environ[n] for n in SETTINGS} == {**SETTINGS, "TF_CPP_MIN_LOG_LEVEL": "0"}


def test_a_repository_s_code_finds_the_keras_that_the_engine_trains_with(tmp_path: Path) -> None:
    """In a process of its own, as from a notebook: no command line has set anything."""
    (tmp_path / "features.py").write_text("import tensorflow as tf\n\nKERAS = tf.keras.layers.Layer.__module__\n")
    code = (
        "import sys; from pathlib import Path; from pipelines.project.repository import load_module;"
        "print(load_module(Path(sys.argv[1]), 'features').KERAS)"
    )
    bare = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=bare, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tf_keras.")


def test_nobody_else_sets_it() -> None:
    files = [f for part in ("transforms", "pipelines", "serving", "tandem", "tests", "docs") for f in (ROOT / part).rglob("*.py")]
    found = {f.relative_to(ROOT).as_posix() for f in files if any(n in f.read_text(encoding="utf-8") for n in list(SETTINGS)[:2])}
    assert found == {"transforms/tensorflow_settings.py"}
