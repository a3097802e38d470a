"""Two data folders that write the rows of one project into one online store: the second is refused before it changed anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import workflow
from pipelines.feature_store.online_sink import Claim
from pipelines.feature_store.store import open_store, ordered_store
from pipelines.lake.folder_identity import identity_of
from tests.integration.orders_world import Orders, online_store, order
from transforms.errors import ConfigError, DataError, StoreError


@pytest.fixture(scope="module")
def redis() -> Iterator[dict[str, Any]]:
    with online_store("redis") as settings:
        yield settings


def refused(*folders: Path) -> Any:
    one, two = folders
    return pytest.raises(ConfigError, match=rf"written from another data folder \({one}\), and this is {two}.*'tandem apply --take-over'")


def test_the_second_folder_is_refused_until_it_takes_over(tmp_path: Path, redis: dict[str, Any]) -> None:
    one, two = Orders(tmp_path / "one", store=redis), Orders(tmp_path / "two", store=redis)
    one.log([order("o1", "23:02", 5.0)])
    one.round()
    assert one.online("count_24h") == (1,)
    two.log([order("o1", "23:02", 5.0), order("o2", "23:03", 7.0)])
    run = two.batch()
    with refused(one.data, two.data):
        two.apply(run)
    assert not (two.data / "registry.db").exists(), "nothing was changed"
    assert not list((two.data / "graphs").glob("*/CURRENT"))
    workflow.apply(two.repo(), run, two.steps, take_over=True)
    assert '"take_over": true' in (two.data / "audit/audit.jsonl").read_text("utf-8").splitlines()[-1]
    two.materialize()
    assert two.online("count_24h") == (2,)
    with refused(two.data, one.data):
        one.materialize()
    with refused(two.data, one.data):
        Claim(one.repo())()
    assert two.online("count_24h") == (2,)


def test_a_folder_that_is_moved_keeps_its_rows_and_a_copy_does_not_get_them(tmp_path: Path, redis: dict[str, Any]) -> None:
    first = Orders(tmp_path / "first", store={**redis, "connection_string": redis["connection_string"] + ",db=1"})
    first.log([order("o1", "23:02", 5.0)])
    first.round()
    shutil.copytree(first.path, tmp_path / "copy", symlinks=True)
    copy = Orders(tmp_path / "copy", store=first.store)
    with refused(first.data, copy.data):
        copy.materialize()
    shutil.move(first.path, tmp_path / "moved")
    moved = Orders(tmp_path / "moved", store=first.store)
    moved.apply()
    moved.materialize()
    assert moved.online("count_24h") == (1,)


def test_a_project_that_is_copied_with_its_store_is_a_project_of_its_own(tmp_path: Path) -> None:
    first = Orders(tmp_path / "first")
    first.log([order("o1", "23:02", 5.0)])
    first.round()
    shutil.copytree(first.path, tmp_path / "copy")
    copy = Orders(tmp_path / "copy")
    copy.log([order("o1", "23:02", 5.0), order("o2", "23:03", 7.0)])
    copy.round()
    first.materialize()
    assert (first.online("count_24h"), copy.online("count_24h")) == ((1,), (2,))


def test_an_identity_stays_with_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    made = identity_of(data)
    assert made.place == str(data)
    assert identity_of(tmp_path / "link") == made, "by another name"
    shutil.copytree(data, tmp_path / "copy")
    copy = identity_of(tmp_path / "copy")
    assert copy.name != made.name
    data.rename(tmp_path / "moved")
    assert identity_of(tmp_path / "moved").name == made.name
    assert identity_of(tmp_path / "copy") == copy, "it stays another one"


def test_a_folder_whose_name_is_no_text_has_a_place_that_every_store_takes(tmp_path: Path) -> None:
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    data.mkdir()
    made = identity_of(data)
    assert made.place == f"{tmp_path}/caf\\xe9" and made.encode()
    assert identity_of(data) == made
    data.rename(tmp_path / "moved")
    assert identity_of(tmp_path / "moved").name == made.name


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"place": "/x"}', b'{"id": "a"}', b'{"id": 7, "place": "/x"}', b'{"id": "a", "place": null}',
        b'{"id": "", "place": "/x"}', b'{"id": "a b", "place": "/x"}', b'{"id": "a\\nb", "place": "/x"}', b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_identity_is_one_line_and_stays(tmp_path: Path, content: bytes) -> None:
    """A new one would be refused the folder's own rows."""
    (tmp_path / ".identity.json").write_bytes(content)
    with pytest.raises(DataError, match=r"\.identity\.json is damaged: .*restore it, or delete it and run 'tandem apply --take-over'") as e:
        identity_of(tmp_path)
    assert "\n" not in str(e.value)
    assert (tmp_path / ".identity.json").read_bytes() == content


def test_a_copy_of_a_folder_whose_own_identity_cannot_be_read_is_another_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    made = identity_of(data)
    shutil.copytree(data, tmp_path / "copy")
    (data / ".identity.json").write_text("{")
    assert identity_of(tmp_path / "copy").name != made.name


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_an_apply_that_fails_leaves_the_mark_where_it_was(
    tmp_path: Path, redis: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A first one leaves none, and one that takes over takes nothing."""
    sqlite = {"type": "tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore", "path": str(tmp_path / "online.db")}
    store = {**redis, "connection_string": redis["connection_string"] + ",db=2"} if kind == "redis" else sqlite
    one, two = Orders(tmp_path / "one", store=store), Orders(tmp_path / "two", store=store)
    runs = []
    for world in (one, two):
        world.log([order("o1", "23:02", 5.0)])
        runs.append(world.batch())
    opened = open_store(one.repo())
    online = ordered_store(opened)

    def failing(world: Orders, run: str) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(type(online), "apply_fingerprint", failed)
            with pytest.raises(StoreError, match="the disk is full"):
                workflow.apply(world.repo(), run, world.steps, take_over=world is two)

    def failed(*given: Any) -> None:
        raise StoreError("the disk is full")

    failing(one, runs[0])
    assert online.owner(opened.config) is None
    one.apply(runs[0])
    owner = online.owner(opened.config)
    assert owner is not None and owner.endswith(str(one.data))
    failing(two, runs[1])
    assert online.owner(opened.config) == owner
    one.materialize()
