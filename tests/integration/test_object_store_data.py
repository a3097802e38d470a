"""``data: s3://...`` on a real S3 server (SeaweedFS): the same values as in a folder, and machines that see each other's work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import far_files, learn_steps
from pipelines.batch.batch_job import run_batch
from pipelines.batch.beam_options import BeamEngine
from pipelines.batch.row_shares import RowRange
from pipelines.lake import file_addresses, graphs, layout
from pipelines.lake.runs import RunStore
from pipelines.project.config import load_settings
from serving.object_store import cache as caches
from serving.object_store.cache import FOLDER, cache_of, data_path
from serving.object_store.connecting import connect
from serving.object_store.following import rows_here
from tests.integration.orders_world import END, START, Orders, order
from tests.object_stores import Faults, faulty, nobody_there
from transforms.errors import DataError, TandemError

EVENTS = [order(f"{n}", f"{n % 24:02}:{n * 7 % 60:02}", amount=n / 3, shop=n % 5, city="ab"[n % 2]) for n in range(200)]


class Machine(Orders):
    """A machine with a checkout of the repository and a cache of its own; ``url`` is the data folder of all."""

    def __init__(self, path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url, self.patch = url, monkeypatch
        super().__init__(path)
        (self.repo_path / "tandem.yaml").write_text(f"data: {url}\ndefinitions: features\nbatch: {{shards: 1, max_reject_share: 0.9}}\n")

    def here(self) -> Machine:
        """From now on this process is this machine."""
        self.patch.setenv(FOLDER, str(self.path / "cache"))
        sys.modules.pop("features", None)
        return self

    @property
    def data(self) -> Path:
        """The cache folder."""
        return data_path(self.url)


@pytest.fixture
def machine(s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    url = f"{s3_here}/lake"

    def make(name: str) -> Machine:
        made = Machine(tmp_path / name, url, monkeypatch).here()
        # A data scientist's machine has no folder for the registry yet: Feast makes none.
        (tmp_path / name / "data").mkdir(exist_ok=True)
        return made

    return make


def put_events(url: str, events: Sequence[object] = EVENTS, day: str = "2024-05-01") -> None:
    """As a user does, with a tool of the cloud's."""
    connect(url).put(f"events/orders/date={day}/all.jsonl", "".join(json.dumps(e) + "\n" for e in events).encode())


def rows(data: Path, group: str, run: str) -> pa.Table:
    """The rows of a run, without the moment that they were made at."""
    files = sorted(layout.offline_run(data, group, run).rglob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(f).read() for f in files]).drop(["created_timestamp"])


def test_the_same_values_as_in_a_folder_and_another_machine_has_them(machine: Callable[[str], Machine], tmp_path: Path) -> None:
    plain = Orders(tmp_path / "plain")
    plain.log(EVENTS)
    wanted_run = plain.round()
    asked = ("count_1h", "count_24h", "amount_mean_1h")
    offline, online = plain.offline(*asked, shop=2), plain.online(*asked, shop=2)

    one = machine("one")
    put_events(one.url)
    run = one.round()
    for group in ("shop_orders", "city_orders"):
        assert rows(one.data, group, run).equals(rows(plain.data, group, wanted_run))
    assert one.offline(*asked, shop=2) == offline and one.online(*asked, shop=2) == online
    applied = graphs.applied_graphs(one.data)
    assert applied == graphs.applied_graphs(plain.data)

    two = machine("two")
    assert RunStore(two.data).find("latest", "batch").id == run
    assert not (two.data / "events").exists() and not (two.data / "offline").exists(), "nothing that nobody asked for"
    two.materialize()
    assert graphs.applied_graphs(two.data) == applied
    assert two.online(*asked, shop=2) == online and two.offline(*asked, shop=2) == offline
    assert two.batch() == run, "the run is found, not made again"
    assert rows(two.data, "shop_orders", run).equals(rows(plain.data, "shop_orders", wanted_run))
    said = RunStore(two.data).find(run).manifest
    assert said["settings"]["data"] == one.url and "tandem-secret" not in str(said)


def test_steps_on_machines_without_the_drivers_folder_make_the_same_bytes(machine: Callable[[str], Machine], tmp_path: Path) -> None:
    plain = Orders(tmp_path / "plain")
    plain.log([*EVENTS, {"at": "never"}])
    wanted = run_batch(plain.repo(), START, END, now=END).run
    one = machine("one")
    put_events(one.url, [*EVENTS, {"at": "never"}])
    engine = BeamEngine()
    engine.elsewhere = True  # a cluster's workers
    run = run_batch(one.repo(), START, END, now=END, engine=engine).run
    for group in ("shop_orders", "city_orders"):
        assert rows(one.data, group, run.id).equals(rows(plain.data, group, wanted.id))
    for name in ("tiles/shop_orders/shard-0000.parquet", "dead_letters/orders/events~orders~date=2024-05-01~all.jsonl.parquet"):
        assert (run.folder / name).read_bytes() == (wanted.folder / name).read_bytes()
    assert run.manifest["rejected"] == wanted.manifest["rejected"] != {}
    put_events(one.url, [order("late", "2024-05-02T01:00:00Z")], "2024-05-02")
    later = END + timedelta(days=1)
    assert run_batch(one.repo(), None, later, now=later, from_run="latest", engine=engine).run.status == "complete"
    assert not list(connect(one.url).list("work/")), "what the steps handed on is gone when the driver has it"


def test_a_large_object_is_read_in_parts_by_its_ranges(machine: Callable[[str], Machine], tmp_path: Path) -> None:
    """No worker fetches it whole; rows, rejects and their places are those of the file."""
    plain = Orders(tmp_path / "plain")
    plain.log([*EVENTS, {"at": "never"}])
    wanted = run_batch(plain.repo(), START, END, now=END).run
    one = machine("one")
    settings = one.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", "shards: 1, split_bytes: 5000"))
    put_events(one.url, [*EVENTS, {"at": "never"}])
    fetched: list[str] = []
    genuine = file_addresses._get_file

    def get_file(address: str, path: Path) -> None:
        fetched.append(address)
        genuine(address, path)

    engine = BeamEngine()
    engine.elsewhere = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_addresses, "_get_file", get_file)
        run = run_batch(one.repo(), START, END, now=END, engine=engine).run
    assert not [a for a in fetched if "/events/" in a]
    for group in ("shop_orders", "city_orders"):
        assert rows(one.data, group, run.id).equals(rows(plain.data, group, wanted.id))
    (letters,) = (run.folder / "dead_letters/orders").iterdir()
    (whole,) = (wanted.folder / "dead_letters/orders").iterdir()
    assert letters.read_bytes() == whole.read_bytes() and letters.stem == f"{whole.stem}~000003"


def test_of_an_object_with_more_rows_than_a_share_a_worker_reads_its_own(
    s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker fetches it whole to learn from some of its rows."""
    table = pa.table({"a": pa.array(range(100_000), pa.int64())})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10_000, use_dictionary=False, compression="none")
    address = f"{s3_here}/rows.parquet"
    file_addresses.put_file(address, tmp_path / "rows.parquet")
    monkeypatch.setattr(file_addresses, "_PIECE", 1 << 10)
    asked: list[int] = []
    genuine = file_addresses.ObjectFile.readinto

    def readinto(self: file_addresses.ObjectFile, buffer: bytearray) -> int:
        asked.append(n := genuine(self, buffer))
        return n

    monkeypatch.setattr(file_addresses.ObjectFile, "readinto", readinto)
    found = list(learn_steps.row_batches([RowRange(address, 25_000, 35_000, whole=False)], table.schema))
    assert [row for batch in found for row in batch.column(0).to_pylist()] == [[n] for n in range(25_000, 35_000)]
    assert 0 < sum(asked) < (tmp_path / "rows.parquet").stat().st_size / 3
    with pytest.raises(DataError, match=r"none\.parquet is gone"):
        list(learn_steps.row_batches([RowRange(f"{s3_here}/none.parquet", 0, 1, whole=False)], table.schema))


def test_many_bytes_are_hashed_by_workers_and_none_is_copied(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the run that another machine makes of copies: key, hashes and bytes are the same."""
    one = machine("one")
    put_events(one.url, [*EVENTS, {"at": "never"}])
    connect(one.url).put("events/orders/date=2024-05-01/_part.jsonl", b"{}\n")
    engine = BeamEngine()
    engine.elsewhere = True
    monkeypatch.setattr(far_files, "BY_WORKERS", 1)
    run = run_batch(one.repo(), START, END, now=END, engine=engine).run
    assert run.manifest["passed_over"]["orders"]["files"][0]["file"].endswith("/_part.jsonl")
    assert not (one.data / "events").exists(), "nothing of the events was copied"
    assert not list(connect(one.url).list("work/")) and not list(layout.runs(one.data).glob(".hash-*"))
    mine = one.data / "events/orders/date=2024-05-01/mine.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"{}\n")
    for most in (1, 1 << 40):  # whoever hashes
        monkeypatch.setattr(far_files, "BY_WORKERS", most)
        with pytest.raises(DataError, match=r"mine\.jsonl is not in s3://.*; upload"):
            run_batch(one.repo(), START, END, now=END, engine=engine)
    two = machine("two")
    again = run_batch(two.repo(), START, END, now=END)
    assert again.reused and again.run.id == run.id and (two.data / "events").exists()

    def replaced(line: str) -> None:
        if line.startswith("windows:"):
            put_events(two.url, EVENTS[::-1])

    with pytest.raises(DataError, match=r"all\.jsonl was changed, replaced or removed while the job read it"):
        run_batch(two.repo(), START, END, now=END, engine=engine, progress=replaced, rerun=True)


def test_a_continued_run_copies_none_of_many_bytes_either(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hash what was put there since and what was touched; what the run before read must be as it was."""
    later, engine = END + timedelta(hours=12), BeamEngine()
    engine.elsewhere = True
    monkeypatch.setattr(far_files, "BY_WORKERS", 1)
    more = [order(f"more{n}", f"2024-05-02T{n % 12:02}:{n % 60:02}:00Z", shop=n % 5) for n in range(50)]
    one = machine("one")
    put_events(one.url)
    first = run_batch(one.repo(), START, END, now=END, engine=engine).run
    put_events(one.url, more, "2024-05-02")
    run = run_batch(one.repo(), None, later, now=later, from_run=first.id, engine=engine).run
    assert run.status == "complete" and not (one.data / "events").exists(), "nothing of the events was copied"
    assert [f["file"] for f in run.manifest["inputs"]["orders"]] == ["events/orders/date=2024-05-02/all.jsonl"]
    two = machine("two")
    again = run_batch(two.repo(), None, later, now=later, from_run=first.id)
    assert again.reused and again.run.id == run.id, "the driver's own copies have the same hashes"
    for asked, past in ((EVENTS[::-1], "was changed after the run read it"), (None, "no longer exists, though the run read it")):
        if asked is not None:
            put_events(one.url, asked)
        else:
            connect(one.url).delete("events/orders/date=2024-05-01/all.jsonl")
        one.here()
        with pytest.raises(DataError, match=past):
            run_batch(one.repo(), None, later, now=later, from_run=first.id, engine=engine, rerun=True)


def test_on_a_mounted_folder_workers_hash_what_the_driver_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Orders(tmp_path / "plain")
    plain.log([*EVENTS, {"at": "never"}])
    wanted = run_batch(plain.repo(), START, END, now=END).run
    engine = BeamEngine()
    engine.elsewhere = True
    monkeypatch.setattr(far_files, "BY_WORKERS", 1)
    again = run_batch(plain.repo(), START, END, now=END, engine=engine)
    assert again.reused and again.run.id == wanted.id
    assert run_batch(plain.repo(), START, END, now=END, engine=engine, rerun=True).run.manifest["inputs"] == wanted.manifest["inputs"]


@pytest.mark.parametrize("most", [5000, 1 << 20])
def test_an_object_that_is_replaced_while_workers_read_it(machine: Callable[[str], Machine], most: int) -> None:
    """They read the version that was listed and hashed, in parts or whole, or nothing."""
    one = machine("one")
    settings = one.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", f"shards: 1, split_bytes: {most}"))
    put_events(one.url, EVENTS)
    engine = BeamEngine()
    engine.elsewhere = True

    def replaced(line: str) -> None:
        if line.startswith("windows:"):
            put_events(one.url, EVENTS[::-1])

    with pytest.raises(DataError, match=r"all\.jsonl was changed, replaced or removed while the job read it"):
        run_batch(one.repo(), START, END, now=END, engine=engine, progress=replaced)
    assert run_batch(one.repo(), START, END, now=END, engine=engine).run.status == "complete"


def test_two_machines_at_once_make_one_run(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    put_events(one.url)

    def batch(each: Machine) -> subprocess.CompletedProcess[str]:
        words = ["batch", "--repo", str(each.repo_path), "--start", f"{START:%Y-%m-%d}", "--end", f"{END:%Y-%m-%d}"]
        env = {**os.environ, FOLDER: str(each.path / "cache")}
        return subprocess.run([sys.executable, "-m", "tandem", *words], env=env, capture_output=True, text=True, timeout=300)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(batch, (one, two)))
    lost = [d for d in done if d.returncode]
    assert len(lost) <= 1, [d.stderr for d in done]
    assert all("is being executed by another process" in d.stderr for d in lost), [d.stderr for d in lost]
    (run,) = [r for r in RunStore(one.here().data).runs() if r.kind == "batch"]
    assert run.status == "complete"
    assert rows_here(f"{layout.offline(one.data)}/shop_orders/run=*/**/*.parquet") == {
        str(layout.offline_run(one.data, "shop_orders", run.id))
    }


def test_a_machine_cut_off_while_it_publishes(
    machine: Callable[[str], Machine], s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    monkeypatch.setattr("serving.object_store.blobs._PAUSES", (0.0,))
    with faulty(s3["AWS_ENDPOINT_URL"], faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setattr("serving.object_store.blobs.RETRIES", {"max_retries": 0})
        one = machine("one")
        put_events(one.url)
        repo = one.repo()
        # Far enough to begin the run; it dies while its rows are uploaded.
        faults.stop_after = 12
        with pytest.raises(TandemError):
            one.batch()
        faults.stop_after = None
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3["AWS_ENDPOINT_URL"])
        assert repo.data == one.data
    connect.cache_clear()
    two = machine("two")
    pattern = f"{layout.offline(two.data)}/shop_orders/run=*/**/*.parquet"
    assert rows_here(pattern) == set() and not list((two.data / "offline").rglob("*.parquet"))
    cache = cache_of(two.data)
    assert cache is not None
    for head in list(cache.store.list("leases/")):  # a minute later
        cache.store.put(head.key, b'{"owner": "gone", "host": "x", "pid": 1, "seconds": -9}')
    run = two.batch()
    assert rows_here(pattern) == {str(layout.offline_run(two.data, "shop_orders", run))}


def test_a_command_says_in_one_line_what_is_wrong(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")

    def refused(**flags: str) -> str:
        connect.cache_clear()
        caches._cache_of.cache_clear()
        with pytest.raises(TandemError) as caught:
            load_settings(one.repo_path, **flags)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused(data="s3://nowhere/x") == "s3://nowhere/x: there is no such bucket or container; create it, or correct data:"
    assert "data: 'ftp://x/y' is not a valid data location; use a folder, or one of s3://bucket/prefix" in refused(data="ftp://x/y")
    monkeypatch.setattr("serving.object_store.blobs._PAUSES", ())
    with monkeypatch.context() as patch, nobody_there() as address:
        patch.setenv("AWS_ENDPOINT_URL", address)
        assert refused().startswith(f"{one.url}: the store cannot be reached, or fails (")
    words = [sys.executable, "-m", "tandem", "runs", "--repo", str(one.repo_path)]
    env = {**os.environ, "AWS_SECRET_ACCESS_KEY": "hidden-secret"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "hidden" not in done.stderr
    assert done.stderr.startswith(f"error: {one.url}: access is refused (403 Forbidden: SignatureDoesNotMatch)")


def test_an_apply_of_one_machine_is_seen_by_the_other(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    put_events(one.url)
    run = one.here().round()
    two.here().materialize()
    two.define(amount=", max=1000")
    again = two.batch()
    assert again != run
    two.apply(again)
    one.here().repo()
    assert graphs.applied_graphs(one.data) == RunStore(one.data).find(again).record.fingerprints
    with pytest.raises(DataError, match="was moved by another machine"):  # decided by what held before
        graphs.apply_graph(_stale(one), "shop_orders", "f" * 64)


def _stale(machine: Machine) -> Path:
    """The machine's data folder, as if it had not looked since an earlier apply."""
    cache = cache_of(machine.data)
    assert cache is not None
    with cache.index("pointers") as index:
        index["graphs/shop_orders/CURRENT"] = '"0123456789abcdef0123456789abcdef"'
    (layout.graph(machine.data, "shop_orders", "f" * 64)).mkdir()
    (layout.graph(machine.data, "shop_orders", "f" * 64) / "tandem.json").write_text("{}")
    return machine.data
