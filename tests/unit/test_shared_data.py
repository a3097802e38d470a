"""A data folder on an object store, as two machines see it: what is published, when, and what a machine that dies leaves.

The store is a folder here (it holds the same contract as S3 does, ``tests/contract/test_object_store.py``), so that every step can fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.lake import graphs, layout, shared
from pipelines.lake.runs import Run, RunStore
from pipelines.registry.alias_file import change, current, model_folder, versions_on_disk
from serving.object_store import following, leases, manifests, pointers, single_files, trees
from serving.object_store.cache import cache_of, data_path
from serving.object_store.object_store import ObjectHead, Unreachable
from tests.network import Network, machines, network
from transforms.errors import ConfigError, DataError

NOW = datetime(2024, 5, 1, tzinfo=UTC)
FINGERPRINT = "f" * 64


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """See ``machines``."""
    return machines(tmp_path, monkeypatch)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def a_run(data: Path, key: str = "k") -> Run:
    """A batch run as ``tandem batch`` makes it, up to its last word."""
    run = RunStore(data).begin("batch", {"key": key}, NOW)
    with run.held():
        write(run.folder / "tiles" / "orders" / "part.parquet", "tiles")
        write(layout.graph(data, "orders", FINGERPRINT) / "tandem.json", "{}")
        run.save(status="publishing", fingerprints={"orders": FINGERPRINT})
        for day in ("2024-05-01", "2024-05-02"):
            write(layout.offline_run(data, "orders", run.id) / f"date={day}" / "part.parquet", f"rows of {day}")
        write(layout.offline_run(data, "orders", run.id) / "cover.json", "{}")
        run.save(status="complete")
    return run


def rows(data: Path) -> dict[str, str] | None:
    """The rows that count, as a reader of this machine has them; None where there are none."""
    counting = following.rows_here(f"{layout.offline(data)}/orders/run=*/**/*.parquet")
    assert counting is not None
    files = sorted(p for folder in counting for p in Path(folder).rglob("*.parquet"))
    return {p.relative_to(layout.offline(data)).as_posix(): p.read_text() for p in files} or None


def test_a_place_that_is_no_url_is_a_folder_as_ever(tmp_path: Path) -> None:
    assert data_path(str(tmp_path)) == tmp_path and cache_of(tmp_path) is None
    assert data_path("data/x") == Path("data/x")
    run = RunStore(tmp_path).begin("batch", {}, NOW)
    with run.held():
        run.save(status="complete")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["FORMAT", "runs"]
    with pytest.raises(ConfigError, match="is not a valid data location"):
        data_path("ftp://host/x")


def test_another_machine_sees_a_run_whole(machine: Callable[[str], Path]) -> None:
    here = machine("a")
    run = a_run(here)
    there = machine("b")
    found = RunStore(there).find("latest", "batch")
    assert (found.id, found.status, found.record.fingerprints) == (run.id, "complete", {"orders": FINGERPRINT})
    assert rows(there) == rows(here) is not None
    shared.have_run(there, run.id)
    assert (there / "runs" / run.id / "tiles" / "orders" / "part.parquet").read_text() == "tiles"
    assert RunStore(there).begin("batch", {"key": "k"}, NOW).id == run.id, "the same question finds the same run"
    assert not [p for p in there.rglob("*") if ".unchecked" in p.name or p.name.startswith(".run=")]


def test_a_machine_that_dies_at_any_write_leaves_nothing_half_done(machine: Callable[..., Path]) -> None:
    data = machine("whole")
    a_run(data)
    wanted, writes = rows(data), network(data).writes
    assert wanted is not None and writes > 12
    for step in range(writes):
        seen = {name: machine(f"{name}{step}", f"s3://bucket/step{step}") for name in ("a", "b", "c")}
        network(seen["a"]).passes = step
        with suppress(Unreachable):  # but for the last write, that its lease is let go of
            a_run(seen["a"])
        # Its lease was not let go of: it expires. What others see is all or nothing.
        there = RunStore(seen["b"]).runs()
        complete = [r for r in there if r.status == "complete"]
        assert rows(seen["b"]) == (wanted if complete else None), step
        network(seen["a"]).passes = None
        for key in [h.key for h in network(seen["c"]).list("leases/")]:
            network(seen["c"]).put(key, b'{"owner": "gone", "host": "x", "pid": 1, "seconds": -9}')
        run = a_run(seen["c"]) if not complete else complete[-1]  # another machine, the same command
        assert {r.status for r in RunStore(seen["b"]).runs()} == {"complete"} and rows(seen["b"]) == rows(seen["c"]) == wanted, step
        assert [r.id for r in RunStore(seen["b"]).runs()] == [run.id], "completed under its id"


def test_what_was_not_published_does_not_count_here_either(machine: Callable[[str], Path]) -> None:
    data = machine("a")
    run = RunStore(data).begin("batch", {}, NOW)
    write(layout.offline_run(data, "orders", run.id) / "part.parquet", "of a run that is not complete")
    assert rows(data) is None


def test_a_run_is_made_by_one_machine_at_a_time(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    run = RunStore(here).begin("batch", {}, NOW)
    with run.held():
        other = RunStore(there).find(run.id)
        assert other.status == "running" and other.id == run.id
        with pytest.raises(DataError, match="is being executed by another process"), other.held():
            pass
    with RunStore(there).find(run.id).held():
        pass


def test_a_run_of_a_machine_that_died_is_found_killed(machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = machine("a"), machine("b")
    run = RunStore(here).begin("batch", {}, NOW)
    run.save(host="another-machine")
    assert RunStore(there).find(run.id).status == "running", "nobody has its lease yet: nobody can tell"
    leases.take(network(here), f"runs/{run.id}")
    assert RunStore(there).find(run.id).status == "running"
    network(here).put(f"leases/runs/{run.id}.json", b'{"owner": "x", "host": "another-machine", "pid": 1, "seconds": -9}')
    assert RunStore(there).find(run.id).status == "killed"
    assert RunStore(here).find(run.id).status == "killed", "and every machine knows"


def test_a_holder_that_lost_its_run_publishes_nothing(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    run = RunStore(here).begin("batch", {"key": "k"}, NOW)
    with ExitStack() as held:
        held.enter_context(run.held())
        network(there).put(f"leases/runs/{run.id}.json", b'{"owner": null}')  # it slept for longer than its lease
        assert a_run(there).id == run.id
        with pytest.raises(DataError, match="was completed by another process"):
            run.save(status="complete")
    assert RunStore(here).find(run.id).record.fingerprints == {"orders": FINGERPRINT}


def test_a_complete_runs_manifest_may_learn_more(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    run = a_run(here)
    other = RunStore(there).find(run.id)
    run.save(links={"mlflow": 1})
    other.save(metrics={"auc": 0.5})
    found = RunStore(here).find(run.id)
    assert (found.record.links, found.record.metrics, found.status) == ({"mlflow": 1}, {"auc": 0.5}, "complete")


def test_pointers_move_by_compare_and_swap(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    a_run(here)
    graphs.begin_apply(here, {"orders": FINGERPRINT})
    shared.open_data(there)
    assert graphs.applied_graphs(there) == {"orders": FINGERPRINT} == graphs.applying(there), "an apply under way counts on every machine"
    assert layout.graph(there, "orders", FINGERPRINT).is_dir()
    graphs.apply_graph(here, "orders", FINGERPRINT)
    graphs.end_apply(here)
    shared.open_data(there)
    assert graphs.applying(there) is None and graphs.applied_graphs(there) == {"orders": FINGERPRINT}
    other = "e" * 64
    for data in (here, there):
        write(layout.graph(data, "orders", other) / "tandem.json", "{}")
    graphs.apply_graph(there, "orders", other)
    write(layout.graph(here, "orders", "d" * 64) / "tandem.json", "{}")
    with pytest.raises(DataError, match=r"graphs/orders/CURRENT was moved by another machine meanwhile; run the same command again"):
        graphs.apply_graph(here, "orders", "d" * 64)
    shared.open_data(here)
    assert graphs.applied_graphs(here) == {"orders": other}


def test_a_pointer_that_is_lost_here_is_read_again(machine: Callable[[str], Path]) -> None:
    here = machine("a")
    write(layout.graph(here, "orders", FINGERPRINT) / "tandem.json", "{}")
    graphs.apply_graph(here, "orders", FINGERPRINT)
    (layout.graphs(here) / "orders" / layout.CURRENT).unlink()
    shared.open_data(here)
    assert graphs.applied_graphs(here) == {"orders": FINGERPRINT}


def test_versions_and_aliases(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    write(model_folder(here, "delays") / "1" / "saved_model.pb", "one")
    change(model_folder(here, "delays"), "register", lambda now: (1, None), NOW)
    shared.open_data(there)
    assert current(model_folder(there, "delays")).champion == 1
    assert (model_folder(there, "delays") / "1" / "saved_model.pb").read_text() == "one", "a server has its champion at hand"
    write(model_folder(here, "delays") / "2" / "saved_model.pb", "two of a")
    write(model_folder(there, "delays") / "2" / "saved_model.pb", "two of b")
    change(model_folder(here, "delays"), "register", lambda now: (1, 2), NOW)
    with pytest.raises(DataError, match="models/delays/2 was published by another machine meanwhile"):
        change(model_folder(there, "delays"), "register", lambda now: (2, None), NOW)
    assert versions_on_disk(model_folder(there, "delays")) == [1, 2]


def test_files_follow_the_store(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    for day in ("01", "02"):
        write(here / "events" / "orders" / f"date=2024-05-{day}" / "a.jsonl", day)
    shared.send_files(here, ["events"])
    shared.have_files(there, ["events/orders"], lambda name: "date=2024-05-01" in name)
    assert [p.read_text() for p in sorted((there / "events").rglob("*.jsonl"))] == ["01"], "of the days that are asked for"
    network(here).put("events/orders/date=2024-05-01/a.jsonl", b"corrected by its owner")
    network(here).delete("events/orders/date=2024-05-02/a.jsonl")
    for data in (here, there):
        shared.have_files(data, ["events/orders"])
        assert [p.read_text() for p in sorted((data / "events").rglob("*.jsonl"))] == ["corrected by its owner"]
    shared.send_files(here, ["events"])
    (here / "events" / "orders" / "date=2024-05-01" / "a.jsonl").unlink()
    shared.send_files(here, ["events"])
    assert network(here).read("events/orders/date=2024-05-01/a.jsonl") is not None, "a copy that somebody removed takes nothing away"
    write(there / "events" / "orders" / "mine.jsonl", "seen by nobody else")
    with pytest.raises(DataError, match=r"events/orders/mine.jsonl is not in s3://bucket/lake; upload"):
        shared.have_files(there, ["events/orders"])


def test_a_file_of_other_bytes_than_were_published_is_refused(machine: Callable[[str], Path]) -> None:
    here, there = machine("a"), machine("b")
    a_run(here)
    key = next(h.key for h in network(here).list("offline/") if h.key.endswith("part.parquet"))
    network(here).put(key, b"other rows")
    with pytest.raises(DataError, match="is damaged: its SHA-256 is not the one in its key"):
        rows(there)
    network(here).delete(key)
    with pytest.raises(DataError, match="is gone, and offline/orders/run="):
        rows(there)


def test_a_list_that_names_files_outside_is_refused(machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = machine("a")
    said = {"files": [{"path": "../../escaped", "bytes": 1, "sha256": "0" * 64}]}
    network(data).put("trees/graphs/orders/x.json", json.dumps(said).encode())
    found = cache_of(data)
    assert found is not None
    with pytest.raises(DataError, match="names a file outside of its folder"):
        trees.fetch(found, "graphs/orders/x")
    monkeypatch.setattr(Network, "list", lambda self, prefix: iter([ObjectHead(f"{prefix}../../escaped", 1, "v", NOW)]))
    for read in (pointers.refresh, manifests.refresh):
        with pytest.raises(DataError, match=r"has a name with \.\. in it"):
            read(found)
    with pytest.raises(DataError, match=r"has a name with \.\. in it"):
        single_files.pull(found, "events")


def test_the_store_hands_out_no_other_files(machine: Callable[[str], Path]) -> None:
    data = machine("a")
    for key in ("access/api_keys.json", "trees/access.json", "trees/access/x.json", "audit/audit.jsonl"):
        network(data).put(key, b'{"files": [{"path": "api_keys.json", "bytes": 2, "sha256": "0"}]}')
    shared.open_data(data)
    shared.have_everything(data, ["events/orders"])
    assert not (data / "access").exists() and not (data / "audit").exists()
    network(data).put("pointers/access/api_keys.json", b"{}")
    with pytest.raises(DataError, match=r"pointers/access/api_keys\.json is not a pointer known to this version of Tandem"):
        shared.open_data(data)


def test_a_newer_format_is_refused(machine: Callable[[str], Path]) -> None:
    data = machine("a")
    network(data).put("FORMAT", b"99\n")
    with pytest.raises(DataError, match=r"s3://bucket/lake is of format 99, and this version of Tandem knows 1"):
        shared.open_data(data)


def a_graph(place: Path) -> dict[str, bytes]:
    """A graph's folder, as far as its files' hashes go; file -> content."""
    write(place / "transform_fn" / "saved_model.pb", "model")
    digest = hashlib.sha256(b"model").hexdigest()
    write(place / "tandem.json", json.dumps({"fingerprint": FINGERPRINT, "files": {"transform_fn/saved_model.pb": digest}}))
    return contents(place)


def contents(place: Path) -> dict[str, bytes]:
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}


HARMS: dict[str, Callable[[Path], object]] = {
    "altered": lambda place: (place / "transform_fn" / "saved_model.pb").write_bytes(b"other"),
    "missing": lambda place: (place / "transform_fn" / "saved_model.pb").unlink(),
    "too many": lambda place: (place / "transform_fn" / "more.pb").write_bytes(b"more"),
    "no head": lambda place: (place / "tandem.json").write_bytes(b"{"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_copy_of_a_graph_is_set_aside_and_fetched_again(machine: Callable[[str], Path], harm: str) -> None:
    data = machine("a")
    place = layout.graph(data, "orders", FINGERPRINT)
    good = a_graph(place)
    shared.publish(data, place)
    HARMS[harm](place)
    harmed = contents(place)
    assert graphs.graph_damage(data, "orders", FINGERPRINT) == "" and contents(place) == good
    (aside,) = place.parent.glob(f".{FINGERPRINT}.set-aside-*")
    assert contents(aside) == harmed


@pytest.mark.parametrize("lost", [True, False])
def test_a_graph_that_is_damaged_in_the_store_too_is_damaged_until_it_is_published_again(
    machine: Callable[[str], Path], lost: bool
) -> None:
    data = machine("a")
    place = layout.graph(data, "orders", FINGERPRINT)
    good = a_graph(place)
    shared.publish(data, place)
    (key,) = [h.key for h in network(data).list("graphs/") if h.key.endswith("saved_model.pb")]
    if lost:
        network(data).delete(key)
    else:
        network(data).put(key, b"other")
    assert graphs.graph_damage(data, "orders", FINGERPRINT) == "", "the copy here is whole"
    HARMS["altered"](place)
    harmed = contents(place)
    assert "saved_model.pb is missing or damaged" in graphs.graph_damage(data, "orders", FINGERPRINT) and contents(place) == harmed
    a_graph(place)
    shared.publish(data, place)
    there = machine("b")
    graphs.have_graph(there, "orders", FINGERPRINT)
    assert contents(layout.graph(there, "orders", FINGERPRINT)) == good
