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


def test_keras_takes_nothing_from_the_home_and_leaves_nothing_there(tmp_path: Path) -> None:
    """Keras reads ``~/.keras/keras.json`` at its import, and writes it where it is missing."""
    code = (
        "from transforms.tensorflow_settings import settle_tensorflow; settle_tensorflow();"
        "import tensorflow as tf; print(tf.keras.backend.floatx(), tf.keras.__name__)"
    )
    bare = {k: v for k, v in os.environ.items() if k not in (*SETTINGS, "KERAS_HOME", "XDG_CACHE_HOME")}
    for name, theirs in (("none", None), ("theirs", '{"floatx": "float16"}')):
        home = tmp_path / name
        home.mkdir()
        if theirs is not None:
            (home / ".keras").mkdir()
            (home / ".keras" / "keras.json").write_text(theirs)
        done = subprocess.run(
            [sys.executable, "-c", code], env={**bare, "HOME": str(home)}, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("float32 ") and "keras" in done.stdout, done
        assert (home / ".keras").exists() == (theirs is not None) and (home / ".cache" / "tandem" / "keras" / "keras.json").is_file()


def test_nobody_else_sets_it() -> None:
    files = [f for part in ("transforms", "pipelines", "serving", "tandem", "tests", "docs") for f in (ROOT / part).rglob("*.py")]
    found = {f.relative_to(ROOT).as_posix() for f in files if any(n in f.read_text(encoding="utf-8") for n in list(SETTINGS)[:2])}
    assert found == {"transforms/tensorflow_settings.py"}
