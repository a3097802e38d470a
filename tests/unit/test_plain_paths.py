"""SECURITY low (patterns in paths): a folder may have any name that the file system takes; no library makes a pattern of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transforms.errors import GraphError
from transforms.plain_paths import matching, plain_path

NAMES = ["data[1]", "a*", "a?b", "a\\b", "[ab]?c", "my [1]*/proj/data"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Links go to a folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_a_path_without_signs_is_itself(tmp_path: Path, cache: Path) -> None:
    assert plain_path(tmp_path / "data") == tmp_path / "data"
    assert plain_path("data") == Path("data")
    assert not cache.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_path_with_signs_has_a_second_name_that_stays(tmp_path: Path, name: str) -> None:
    """SECURITY low (patterns in paths)."""
    import tensorflow as tf

    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "x.gz").write_text("mine")
    beside = tmp_path / name.translate({ord(c): "1" for c in "[]*?\\"})
    beside.mkdir(parents=True, exist_ok=True)
    (beside / "x.gz").write_text("another's")
    found = plain_path(folder / "x.gz")
    assert found.read_text() == "mine"
    assert tf.io.gfile.glob(str(plain_path(folder) / "*.gz")) == [str(found)]
    assert plain_path(folder / "x.gz") == found
    assert plain_path(folder / "not" / "there") == found.parent / "not" / "there"
    assert not list(found.parents[0].glob(".*"))


def test_a_link_that_leads_elsewhere_is_put_right(tmp_path: Path) -> None:
    folder = tmp_path / "data[1]"
    folder.mkdir()
    link = plain_path(folder)
    link.unlink()
    link.symlink_to(tmp_path)
    assert plain_path(folder).resolve() == folder
    assert os.readlink(link) == str(folder)


def test_no_place_for_the_link_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path / "file", "set XDG_CACHE_HOME to a folder that can be written"),
        (tmp_path / "c*", "a folder without"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
        with pytest.raises(GraphError, match=message) as e:
            plain_path(tmp_path / "data[1]")
        assert "\n" not in str(e.value)


def test_what_is_there_as_it_stands_is_meant_as_it_stands(tmp_path: Path) -> None:
    """SECURITY low (patterns in paths): data[1] is not data1, and a file called so is that file."""
    for name in ("data[1]", "data1"):
        for file in ("a.parquet", "b[2].parquet", "b2.parquet", "run=1/date=1/c.parquet"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
    odd = tmp_path / "data[1]"
    assert matching(odd / "*.parquet") == [odd / "a.parquet", odd / "b2.parquet", odd / "b[2].parquet"]
    assert matching(odd / "b[2].parquet") == [odd / "b[2].parquet"]
    assert matching(odd / "run=*/*/*.parquet") == [odd / "run=1/date=1/c.parquet"]
    assert len(matching(odd / "**/*.parquet")) == 4
    assert matching(tmp_path / "data[0-9]" / "a.parquet") == [tmp_path / "data1/a.parquet"]
    assert matching(odd / "none.parquet") == []
