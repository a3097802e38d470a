"""Files of a graph that this user may not read: one line that names the file, and no word of damage."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake import layout
from pipelines.lake.graphs import graph_damage, hash_of
from transforms.errors import DataError
from transforms.graph import TransformGraph

FINGERPRINT = "f" * 64
NOBODY = 65534


@contextmanager
def refused(file: Path) -> Iterator[None]:
    """For the body, this thread's user may not read a file or folder."""
    mode, root = file.stat().st_mode, os.geteuid() == 0  # root may read everything, whatever the modes are
    file.chmod(0)
    try:
        if root:
            ctypes.CDLL(None).setfsuid(NOBODY)
        yield
    finally:
        if root:
            ctypes.CDLL(None).setfsuid(0)
        file.chmod(mode)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder with a graph that is whole, as far as the hashes go."""
    with tempfile.TemporaryDirectory() as folder:
        place = layout.graph(Path(folder), "orders", FINGERPRINT)
        (place / "transform_fn").mkdir(parents=True)
        (place / "transform_fn" / "saved_model.pb").write_bytes(b"model")
        files = {"transform_fn/saved_model.pb": hashlib.sha256(b"model").hexdigest()}
        (place / "tandem.json").write_text(json.dumps({"fingerprint": FINGERPRINT, "definition_hash": "d", "files": files}))
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
        assert graph_damage(Path(folder), "orders", FINGERPRINT) == ""
        yield Path(folder)


LOOKS: dict[str, Callable[[Path], Any]] = {
    "plan": lambda data: graph_damage(data, "orders", FINGERPRINT),
    "load": lambda data: TransformGraph.load(layout.graph(data, "orders", FINGERPRINT), FINGERPRINT),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("closed", "named"),
    [
        ("tandem.json", "tandem.json"),
        ("transform_fn/saved_model.pb", "transform_fn/saved_model.pb"),
        ("transform_fn", "transform_fn/saved_model.pb"),
        ("", "tandem.json"),
    ],
)
def test_what_this_user_may_not_read_is_not_damaged(data: Path, closed: str, named: str, look: str) -> None:
    place = layout.graph(data, "orders", FINGERPRINT)
    with refused(place / closed), pytest.raises(DataError) as raised:
        LOOKS[look](data)
    assert str(raised.value) == f"{place / named} cannot be read (Permission denied); grant this user access, or run as the owner"


def test_nor_is_it_of_another_definition(data: Path) -> None:
    head = layout.graph(data, "orders", FINGERPRINT) / "tandem.json"
    with refused(head), pytest.raises(DataError, match=r"tandem\.json cannot be read \(Permission denied\)"):
        hash_of(data, "orders", FINGERPRINT)
    assert hash_of(data, "orders", FINGERPRINT) == "d"
