"""Commands as their user runs them where the data lies on an S3 server: archive, reproduce, erase, vacuum (labels and monitor:
``test_monitor.py``)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from pipelines.lake import shared
from serving.object_store.cache import FOLDER
from tests.integration.store_commands import tandem
from tests.integration.stream_world import FEATURES, StreamWorld, events, make_stream_world
from tests.integration.test_forgetting_on_store import as_it_was
from tests.integration.test_object_store_data import EVENTS, Machine, put_events
from tests.network import URL, machines, network
from transforms.errors import TandemError

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


def objects(s3: dict[str, str], url: str) -> dict[str, bytes]:
    """All that the server has of the data: key -> bytes, by another client than the product's."""
    store = S3Store(
        "tandem", endpoint=s3["AWS_ENDPOINT_URL"], access_key_id=s3["AWS_ACCESS_KEY_ID"], region=s3["AWS_REGION"],
        secret_access_key=s3["AWS_SECRET_ACCESS_KEY"], client_options={"allow_http": True},
    )  # fmt: skip
    keys = [head["path"] for page in obstore.list(store, url.removeprefix("s3://tandem/")) for head in page]
    return {key: bytes(obstore.get(store, key).bytes()) for key in keys}


def text_of(key: str, content: bytes) -> str:
    cells = repr(pq.read_table(pa.BufferReader(content)).to_pylist()) if key.endswith(".parquet") else ""
    return key + content.decode("latin-1") + cells


# ------------------------------------------------------------------------------------------------------------------------------ archive

ARCHIVED = FEATURES.replace('topic="{topic}",', 'topic="{topic}", files="events/trips",')


def archived(data: Path) -> Counter[tuple[int, int]]:
    """What a reader of event files finds: each event and how often, of the files that count."""
    shared.have_files(data, ["events"])
    from pipelines.sources.archived_files import covered

    out: Counter[tuple[int, int]] = Counter()
    for folder in sorted((data / "events" / "trips").glob("date=*")):
        gone = covered(p.name for p in folder.iterdir())
        for path in folder.glob("topic-*.parquet"):
            if path.name not in gone:
                table = pq.read_table(path)
                out.update(zip(table.column("_partition").to_pylist(), table.column("_offset").to_pylist(), strict=True))
    return out


def test_two_machines_archive_a_topic_in_turn(s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "a"))
    world = make_stream_world(tmp_path / "world", url=s3_here, features=ARCHIVED)
    monkeypatch.setattr("pipelines.replay.archive_merge.MERGE_FROM", 2)
    for n, name in enumerate("abab"):
        monkeypatch.setenv(FOLDER, str(tmp_path / name))
        world.produce(events(50, n, start=n * 3600, seconds=3600))
        (done,) = tandem("archive", "--repo", str(world.path))["sources"]
        assert (done["records"], done["events"]) == (50, 50)
    monkeypatch.setenv(FOLDER, str(tmp_path / "c"))
    found = archived(world.data)
    assert len(found) == 200 and set(found.values()) == {1}


def test_an_archive_killed_at_each_step_has_each_event_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see = machines(tmp_path, monkeypatch)
    see("a")
    monkeypatch.setattr("pipelines.replay.archive_merge.MERGE_FROM", 2)
    world = make_stream_world(tmp_path / "world", url=URL, features=ARCHIVED)
    world.produce(events(50))
    archive(world)
    world.produce(events(50, 1, start=3600, seconds=3600))
    for step in range(100):
        with as_it_was(tmp_path):
            see("a")
            store = network(world.data)
            store.passes = step
            try:
                archive(world)
                cut = False
            except TandemError:
                cut = True
            store.passes = None
            for key in [h.key for h in store.list("leases/")]:  # a minute later
                store.put(key, b'{"owner": null}')
            world.produce(events(20, 2 + step, start=7200, seconds=600))
            see("a" if step % 2 else "b")
            archive(world)
            see("c")
            found = archived(world.data)
            assert len(found) == world.total() and set(found.values()) == {1}, step
        if not cut:
            break
    assert not cut and step > 4


def archive(world: StreamWorld) -> None:
    from pipelines.replay.topic_archive import archive_topic
    from pipelines.sources.broker import open_broker

    sys.modules.pop("features", None)
    repo = world.repo()
    reader = open_broker(repo.settings.kafka, repo.data).open_reader()
    archive_topic(reader, repo.sources["trips"], repo.settings.kafka, repo.data)


# ---------------------------------------------------------------------------------------------------------------------------- reproduce


@pytest.fixture
def machine(s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    def make(name: str) -> Machine:
        made = Machine(tmp_path / name, f"{s3_here}/lake", monkeypatch).here()
        (tmp_path / name / "data").mkdir(exist_ok=True)
        return made

    return make


def test_a_run_of_another_machine_is_made_again_and_nothing_of_the_store_is_touched(
    machine: Callable[[str], Machine], s3: dict[str, str]
) -> None:
    one = machine("one")
    put_events(one.url)
    run = one.round()
    pinned = one.batch(pinned=True, rerun=True)
    before = objects(s3, one.url)
    two = machine("two")
    for asked in (run, pinned):
        done = tandem("reproduce", asked, "--repo", str(two.repo_path))
        assert done["verdict"] == "identical" and done["causes"] == [], done
        after = objects(s3, one.url)
        more = {key.partition("/lake/")[2] for key in after.keys() - before.keys()}
        assert all("reproduce-" in key for key in more), "nothing but the run that says so"
        assert {k for k in before if after.get(k) != before[k] and "/leases/" not in k} == set()
        before = after


# ------------------------------------------------------------------------------------------------------------------------------- forget


def test_erase_and_vacuum_as_commands(machine: Callable[[str], Machine], s3: dict[str, str]) -> None:
    one = machine("one")
    city = "city-to-be-forgotten"
    put_events(one.url, [{**e, "city": city if e["shop"] == 3 else e["city"]} for e in EVENTS])
    one.round()
    assert sum(city in text_of(*each) for each in objects(s3, one.url).items()) >= 2
    two = machine("two")
    two.materialize()
    done = tandem("erase", "--entity", f"city={city}", "--repo", str(two.repo_path), code=0)
    assert done["remains"] == [] and {"events/orders", "offline/city_orders"} <= set(done["found"])
    assert [key for key, content in objects(s3, one.url).items() if city in text_of(key, content)] == []
    one.here()
    one.repo()
    cells = [text_of(p.name, p.read_bytes()) for p in one.data.rglob("*") if p.is_file()]
    assert not any(city in cell for cell in cells)
    before = objects(s3, one.url)
    gone = tandem("vacuum", "--older-than", "1s", "--keep-last", "0", "--repo", str(one.repo_path))
    kinds = {each["kind"] for each in gone["taken"]}
    assert "runs/apply" in kinds and "runs/batch" not in kinds, "what is applied stays"
    assert len(objects(s3, one.url)) < len(before)
