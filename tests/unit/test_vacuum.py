"""``tandem vacuum``: what is old and needed by nothing goes; what is in use never does, however it is in use."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting import vacuum as vacuum_module
from pipelines.forgetting.vacuum import TakenThing, vacuum
from pipelines.lake import layout, runs
from pipelines.lake.graphs import apply_graph
from transforms.errors import TandemError

NOW = datetime(2024, 6, 1, tzinfo=UTC)
OLD, DAY = NOW - timedelta(days=100), timedelta(days=1)
F = {"g": "f" * 64}


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": [1]}), path)
    return path


def old(path: Path) -> None:
    stamp = OLD.timestamp()
    for each in [*path.rglob("*"), path]:
        os.utime(each, (stamp, stamp))


def run(data: Path, kind: str, n: int, at: datetime = OLD, **fields: Any) -> str:
    made = runs.begin(data, kind, {"n": n, "kind": kind}, at)
    made.save(status="complete", **fields)
    return made.id


def batch(data: Path, n: int, days: tuple[int, int], fingerprints: dict[str, str] = F) -> str:
    span = [(OLD + timedelta(days=d)).isoformat() for d in days]
    name = run(data, "batch", n, OLD + timedelta(seconds=n), fingerprints=fingerprints, range=span)
    write(layout.offline_run(data, "g", name) / "date=2024-01-01" / "p.parquet")
    return name


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    settings = SimpleNamespace(request_log=lambda path: tmp_path / "requests")
    return SimpleNamespace(path=tmp_path, data=tmp_path, settings=settings, groups={})


def names(found: list[TakenThing]) -> set[str]:
    return {each["name"] for each in found}


def test_batch_runs_of_applied_graphs_go_only_where_a_newer_one_covers_them(repo: Any) -> None:
    data = repo.data
    apply_graph(data, "g", F["g"])
    covered, half, newest = batch(data, 1, (0, 5)), batch(data, 2, (-1, 3)), batch(data, 3, (0, 9))
    other = batch(data, 4, (0, 9), {"g": "e" * 64})
    assert names(vacuum(repo, NOW, DAY, 0, dry_run=True)) == {covered, other}
    assert layout.run(data, covered).is_dir() and layout.offline_run(data, "g", covered).is_dir()
    went = vacuum(repo, NOW, DAY, 0)
    assert names(went) == {covered, other} and all(each["bytes"] > 0 for each in went)
    assert not layout.run(data, covered).exists() and not layout.offline_run(data, "g", covered).exists()
    assert all(layout.offline_run(data, "g", name).is_dir() for name in (half, newest))


def test_what_a_model_in_use_was_made_of_stays_to_the_end_of_the_chain(repo: Any) -> None:
    data = repo.data
    rows = [batch(data, n, (0, 9), {"g": str(n) * 64}) for n in (1, 2)]
    trained = []
    for version, name in ((1, rows[0]), (2, rows[1])):
        write(data / "training" / f"set{version}" / "manifest.json", json.dumps({"inputs": [f"run={name}"]}))
        old(data / "training" / f"set{version}")
        trained.append(run(data, "train", version, training_set=f"set{version}"))
        write(data / "models" / "m" / str(version) / "tandem.json", json.dumps({"training_set": f"set{version}", "run": trained[-1]}))
        old(data / "models" / "m" / str(version))
    write(
        data / "models" / "m" / "ALIASES.json",
        json.dumps({"champion": 1, "challenger": None, "history": [{"n": 1, "action": "promote", "champion": 1}]}),
    )
    assert names(vacuum(repo, NOW, DAY, 0)) == {"m/2", "set2", trained[1], rows[1]}
    assert vacuum(repo, NOW, DAY, 0) == []
    assert (data / "training" / "set1").is_dir() and layout.offline_run(data, "g", rows[0]).is_dir()


def test_of_links_the_links_go_and_what_they_lead_to_stays(repo: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder that was moved to another disk stopped the command half-way; and what lies behind a link may be anybody's."""
    data, away = repo.data, tmp_path_factory.mktemp("away")
    of_run, of_rows, holds_one = (batch(data, n, (0, 9), {"g": str(n) * 64}) for n in (1, 2, 3))
    write(data / "training" / "set1" / "manifest.json", "{}")
    old(data / "training" / "set1")
    moved = {"run": layout.run(data, of_run), "rows": layout.offline_run(data, "g", of_rows), "set": data / "training" / "set1"}
    for name, folder in moved.items():
        folder.rename(away / name)
        folder.symlink_to(away / name, target_is_directory=True)
    inside = layout.offline_run(data, "g", holds_one)
    write(away / "others" / "file")
    (inside / "folder").symlink_to(away / "others", target_is_directory=True)
    (inside / "file").symlink_to(away / "others" / "file")
    before = sorted(away.rglob("*"))
    went = {each["name"]: each["bytes"] for each in vacuum(repo, NOW, DAY, 0)}
    assert went.keys() == {of_run, of_rows, holds_one, "set1"} and went["set1"] == 0
    assert sorted(away.rglob("*")) == before
    assert not any(os.path.lexists(folder) for folder in [*moved.values(), inside])


def test_former_champions_and_the_challenger_stay(repo: Any) -> None:
    data = repo.data
    for version in (1, 2, 3, 4):
        write(data / "models" / "m" / str(version) / "tandem.json", "{}")
        old(data / "models" / "m" / str(version))
    history = [{"n": 1, "action": "promote", "champion": 1}, {"n": 2, "action": "promote", "champion": 2, "challenger": 3}]
    write(data / "models" / "m" / "ALIASES.json", json.dumps({"champion": 2, "challenger": 3, "history": history}))
    assert names(vacuum(repo, NOW, DAY, 0)) == {"m/4"}


def test_a_run_that_a_stream_began_with_stays(repo: Any) -> None:
    data = repo.data
    name = batch(data, 1, (0, 9), {"g": "1" * 64})
    write(data / "stream" / "main" / "checkpoints" / "shard-0000.jsonl", json.dumps({"run": str(data / "runs" / name)}))
    assert vacuum(repo, NOW, DAY, 0) == []
    (data / "stream" / "main" / "checkpoints" / "shard-0000.jsonl").unlink()
    assert names(vacuum(repo, NOW, DAY, 0)) == {name}


def test_age_count_and_kind(repo: Any) -> None:
    data = repo.data
    for n in range(4):
        old(write(data / "verify" / f"main-{n}" / "report.json").parent)
        write(data / "requests" / f"date=2024-0{n + 1}-01" / "a.parquet")
    write(data / "requests" / "date=2024-05-31" / "young.parquet")
    old(table(data / "stream" / "main" / "rows" / "g" / "a.parquet"))
    write(data / "stream" / "main" / "rows" / "g" / "open.log")
    assert names(vacuum(repo, NOW, timedelta(days=400), 0)) == set()
    assert len(vacuum(repo, NOW, DAY, 10)) == 0, "the newest ten of each kind stay"
    assert names(vacuum(repo, NOW, DAY, 3, ("verify",))) == {"verify/main-0"}
    went = names(vacuum(repo, NOW, timedelta(days=45), 1))
    assert went == {
        "verify/main-1",
        "verify/main-2",
        "requests/date=2024-01-01",
        "requests/date=2024-02-01",
        "requests/date=2024-03-01",
        "requests/date=2024-04-01",
    }
    assert names(vacuum(repo, NOW, DAY, 0)) >= {"stream/main/rows/g/a.parquet", "verify/main-3"}
    assert (data / "stream" / "main" / "rows" / "g" / "open.log").exists() and (data / "requests" / "date=2024-05-31").exists()


@pytest.mark.parametrize("what", ["models/m/ALIASES.json", "runs/batch-x/manifest.json"])
def test_nothing_goes_where_it_cannot_be_told_what_is_needed(repo: Any, what: str) -> None:
    data = repo.data
    write(data / "models" / "m" / "1" / "tandem.json", "{}")
    old(data / "models" / "m" / "1")
    name = batch(data, 1, (0, 9))
    write(data / what, "{broken")
    with pytest.raises(TandemError):
        vacuum(repo, NOW, DAY, 0)
    assert layout.run(data, name).is_dir() and (data / "models" / "m" / "1").is_dir()


def test_nothing_is_taken_while_a_job_is_at_work_and_none_begins_meanwhile(repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that finds its rows there already, or a training that reads them, must not lose them on the way; streams and servers last."""
    import threading

    data, begun = repo.data, threading.Event()
    gone = batch(data, 1, (0, 1), {"g": "0" * 64})
    lasting = [runs.begin(data, kind, {"n": kind}, NOW) for kind in ("stream", "serve", "watch", "replay", "demo")]
    at_work = runs.begin(data, "train", {"n": 2}, NOW)
    with pytest.raises(TandemError, match=f"train run {at_work.id} is running"):
        vacuum(repo, NOW, 30 * DAY, keep=0)
    assert names(vacuum(repo, NOW, 30 * DAY, keep=0, dry_run=True)) == {gone}
    at_work.save(status="complete")
    found: list[str] = []

    def begin() -> None:
        found.append(runs.begin(data, "batch", {"n": 1, "kind": "batch"}, NOW).id)
        begun.set()

    real = vacuum_module.candidates

    def slowly(repo: Any) -> Any:
        thread.start()
        assert not begun.wait(0.3), "a run began while things were taken"
        return real(repo)

    thread = threading.Thread(target=begin)
    monkeypatch.setattr(vacuum_module, "candidates", slowly)
    assert names(vacuum(repo, NOW, 30 * DAY, keep=0)) == {gone}
    thread.join(30)
    assert begun.is_set() and found != [gone], "it makes its rows again"
    assert all(each.folder.exists() for each in lasting)
