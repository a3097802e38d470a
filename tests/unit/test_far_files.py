"""What lies in an object store is listed by its names as a folder of the same files is, and hashed where it lies."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch.far_files import hashed, stored_files
from pipelines.sources.event_files import Inventory, inventory
from serving.object_store.local_folder import LocalFolder
from tests.examples import examples
from tests.unit.test_event_files import DAY, SOURCE
from transforms.errors import DataError
from transforms.instants import micros_of

PARTS = st.sampled_from(["date=2013-01-04", "date=2013-01-05", "date=2013-1-4", "date=none", "region=eu", ".tmp", "_delta", "more"])
NAMES = st.sampled_from(
    ["a.parquet", "b.jsonl", "c.JSONL.gz", "d.csv", ".e.jsonl", "_SUCCESS", "_f.parquet", "g.parquet.gz", "notes.txt", "date=2013-01-04"]
    + [f"topic-00000-{first:020d}-{upto:020d}.parquet" for first, upto in ((0, 10), (0, 5), (5, 10), (10, 12))]
)
TREES = st.dictionaries(st.tuples(st.lists(PARTS, max_size=3).map(tuple), NAMES), st.binary(max_size=40), min_size=1, max_size=12)


def plain(found: Inventory) -> Inventory:
    """Without what only one of the two knows: paths and versions."""
    files = [type(f)(f.name, f.name, f.size, "", f.date, f.partitions) for f in found.files]
    return Inventory(files, found.passed_over)


@settings(max_examples=examples(150))
@given(tree=TREES, range_=st.sampled_from([(0, 1), (0, 2), (1, 2), (-9, 0)]))
def test_names_say_of_objects_what_they_say_of_files(
    tree: dict[tuple[tuple[str, ...], str], bytes], range_: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalFolder(tmp_path_factory.mktemp("store"))
    for (folders, name), content in tree.items():
        key = "/".join(("events/weather", *folders, name))
        if not any(other != key and (other.startswith(f"{key}/") or key.startswith(f"{other}/")) for other in keys(tree)):
            store.put(key, content)
    begin, end = (micros_of(datetime(2013, 1, 4, tzinfo=UTC)) + n * DAY for n in range_)
    try:
        wanted = inventory(store.folder / "objects", SOURCE, begin, end, hashes=False)
    except DataError:
        with pytest.raises(DataError, match="there is nothing below s3://b/events/weather/"):
            stored_files(store, "s3://b", SOURCE, begin, end)
        return
    found = stored_files(store, "s3://b", SOURCE, begin, end)
    assert plain(found) == plain(wanted)
    for file in found.files:
        head = store.head(file.name)
        assert head is not None and (file.path, file.version) == (f"s3://b/{file.name}", head.version)
        assert not file.sha256, "whatever its store says of its time"


def keys(tree: dict[tuple[tuple[str, ...], str], bytes]) -> list[str]:
    return ["/".join(("events/weather", *folders, name)) for folders, name in tree]


def test_a_worker_s_hash_is_the_driver_s(tmp_path: Path) -> None:
    place = tmp_path / "events" / "weather" / "big.jsonl"
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(range(256)) * 40_000)
    (wanted,) = inventory(tmp_path, SOURCE, None, None).files
    with place.open("ab") as more:  # somebody appends meanwhile
        more.write(b"later")
    assert hashed(wanted) == (wanted.name, wanted.sha256)
