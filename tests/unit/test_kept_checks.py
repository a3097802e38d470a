"""Which code an answer may be kept of, and what another answer's key is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.kept_checks import KeptChecks, cache_folder
from pipelines.training.self_contained import why_not

PLAIN = """
from __future__ import annotations
import math
from typing import Any
import tensorflow as tf
import tensorflow_transform as tft
from tandem.transforms.definitions import hours
from constants import BUCKETS

def scaled(inputs: dict[str, Any]) -> dict[str, Any]:
    time = tf.cast(inputs["departure_time"], tf.float32) * 2 * math.pi
    word = tft.compute_and_apply_vocabulary(inputs["word"], vocab_filename="words")
    return {"time_sin": tf.sin(time), "bucket": tft.apply_buckets(inputs["a"], [[0.5]]), "word": word}
"""


def written(repo: Path, code: str) -> Path:
    """A repository of one module beside another of constants."""
    repo.mkdir(exist_ok=True)
    (repo / "constants.py").write_text("BUCKETS = 8\n")
    (repo / "code.py").write_text(code)
    return repo / "code.py"


def test_plain_functions_depend_on_their_code(tmp_path: Path) -> None:
    assert why_not([written(tmp_path, PLAIN), tmp_path / "constants.py"], tmp_path) is None


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import requests",
        "from pathlib import Path",
        "import tensorflow.io.gfile",
        "from tensorflow import io",
        "from tensorflow import *",
        "a = tf.io.read_file('words.txt')",
        "a = tf.lookup.TextFileInitializer('words.txt', tf.string, 0, tf.int64, 1)",
        "a = tft.apply_vocabulary(x, 'words.txt')",
        "a = tf.timestamp()",
        "a = tf.random.normal([1])",
        "a = np.load('weights.npy')",
        "a = np.fromfile('weights')",
        "a = tf.keras.models.load_model('m')",
        "a = tf.raw_ops.ReadFile(filename='a')",
        "a = open('words.txt')",
        "a = getattr(tf, 'i' + 'o')",
        "a = __import__('os')",
        "a = eval('1')",
        "def f():\n    return hash('word')",
    ],
)
def test_what_reaches_beyond_the_code_is_asked_anew(tmp_path: Path, line: str) -> None:
    why = why_not([written(tmp_path, f"import tensorflow as tf\nimport numpy as np\n{line}\n")], tmp_path)
    assert why is not None and why.startswith("code.py, line ")


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("from pathlib import Path\nimport pandas as pd\ndef spine(data: Path) -> object:\n    return pd.read_csv(data / 'a')\n", True),
        ("import tensorflow as tf\nclass Layer(tf.Module):\n    width: int = 3\n    def call(self):\n        return open('a')\n", True),
        ("LATE = dict(a=1)\nNAMES = tuple(n.lower() for n in 'AB')\n", True),
        ("from pathlib import Path\nWORDS = Path(__file__).with_name('words').read_text()\n", False),
        ("import os\nMODE = os.environ['MODE']\n", False),
        ("from os import environ as e\nMODE = e['MODE']\n", False),
        ("def words():\n    return open('words').read()\nWORDS = words()\n", False),
        ("import json\nWORDS = json.load(open('words'))\n", False),
        ("import no_such_package_anywhere\n", False),
        ("def f(words=open('words')):\n    return words\n", False),
        ("class A:\n    words = open('words')\n", False),
    ],
)
def test_of_an_import_counts_what_an_import_runs(tmp_path: Path, code: str, kept: bool) -> None:
    assert (why_not([written(tmp_path, code)], tmp_path, importing=True) is None) is kept


def key_of(repo: Path, folder: Path | None, facts: Any = 1) -> str | None:
    """Of the module ``code``."""
    return KeptChecks(repo, "code", folder).key("scaled", ["code"], facts)


def test_a_key_is_another_when_anything_is_that_the_answer_follows_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, folder = tmp_path / "repo", tmp_path / "kept"
    written(repo, PLAIN)
    first = key_of(repo, folder)
    assert first is not None and first == key_of(repo, folder)
    seen = {first, key_of(repo, folder, facts=2)}
    (repo / "unrelated.py").write_text("import os\n")
    assert key_of(repo, folder) == first
    (repo / "constants.py").write_text("BUCKETS = 9\n")
    seen.add(key_of(repo, folder))
    (repo / "code.py").write_text(PLAIN.replace("0.5", "0.6"))
    seen.add(key_of(repo, folder))
    monkeypatch.setenv("TF_ENABLE_SOMETHING", "1")
    seen.add(key_of(repo, folder))
    library = tmp_path / "library"
    (library / "tensorflow-9.dist-info").mkdir(parents=True)
    monkeypatch.setattr("pipelines.training.kept_checks.LIBRARIES", frozenset({str(library)}))
    seen.add(key_of(repo, folder))
    assert len(seen) == 6 and None not in seen


def test_no_key_where_it_follows_from_more(tmp_path: Path) -> None:
    repo, folder = tmp_path / "repo", tmp_path / "kept"
    written(repo, "import os\n")
    kept = KeptChecks(repo, "code", folder)
    assert kept.key("scaled", ["code"], 1) is None and kept.key("json", ["json"], 1) is None
    assert kept.refused == {"scaled": "code.py, line 1: it imports os", "json": "json lies outside of the repository"}
    kept.keep(None, "said")
    assert kept.find(None) is None and not folder.exists()
    assert KeptChecks(repo, "code", None).key("scaled", ["code"], 1) is None


def test_an_answer_is_found_again_but_not_where_it_is_damaged_or_asked_anew(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    kept = KeptChecks(tmp_path, "code", folder)
    kept.keep("abc", "right", outputs={"a": "int64"})
    found = KeptChecks(tmp_path, "code", folder).find("abc")
    assert found is not None and (found["said"], found["outputs"]) == ("right", {"a": "int64"})
    assert KeptChecks(tmp_path, "code", folder, no_cache=True).find("abc") is None
    for damaged in ("", "[1]", '{"said": 1}'):
        (folder / "abc.json").write_text(damaged)
        assert kept.find("abc") is None
    blocked = tmp_path / "a file"
    blocked.write_text("")
    nowhere = KeptChecks(tmp_path, "code", blocked / "below")
    nowhere.keep("abc", "right")
    assert nowhere.find("abc") is None


def test_the_oldest_answers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.training.kept_checks.MOST", 3)
    kept = KeptChecks(tmp_path, "code", tmp_path / "kept")
    for n in range(5):
        kept.keep(f"k{n}", "right")
        os.utime(tmp_path / "kept" / f"k{n}.json", (n, n))
    assert sorted(p.stem for p in (tmp_path / "kept").iterdir()) == ["k2", "k3", "k4"]


def test_where_answers_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TANDEM_CHECK_CACHE", "")
    assert cache_folder() is None
    monkeypatch.setenv("TANDEM_CHECK_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TANDEM_CHECK_CACHE")
    assert cache_folder() == tmp_path / "tandem" / "checks"
