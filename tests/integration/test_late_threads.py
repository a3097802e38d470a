"""An attempt at a run that failed, and what its workers still write: it meets nothing of the attempt after it. No thread is needed to show
it: what a late one would write is kept, and written at each moment of the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch import batch_job, steps
from pipelines.batch.batch_job import run_batch
from pipelines.batch.row_jobs import RowJobs
from pipelines.batch.work_place import WorkPlace
from pipelines.forgetting.vacuum import vacuum
from pipelines.lake import file_addresses, layout, runs
from serving.object_store.cache import cache_of
from tests.integration.orders_world import Orders
from tests.integration.test_continued_batch import NOW, day, file_bytes, write
from tests.network import machines
from transforms.errors import DataError


class LateWriter:
    """In the place of ``steps.write_parquet``: while ``failing``, the first file of ``step`` is not written yet, and each other one fails.
    Then that first one is written, with too few rows, after each file of the attempt that follows: whenever a thread might do so."""

    def __init__(self, step: str) -> None:
        self.step, self.real = step, steps.write_parquet
        self.failing, self.late, self.times = True, list[tuple[Any, Path]](), 0

    def __call__(self, table: Any, path: Path) -> None:
        if not self.failing:
            self.real(table, path)
            self.write_late()
        elif self.step in path.parts and self.late:
            raise OSError(28, "No space left on device")
        elif self.step in path.parts:
            self.late = [(table.slice(0, 1), path)]
        else:
            self.real(table, path)

    def write_late(self) -> None:
        """As a worker of the attempt that failed does."""
        self.real(*self.late[0])
        self.times += 1


def orders(path: Path) -> Orders:
    """Two days in two shards, with a dead letter."""
    made = Orders(path)
    settings = made.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", "shards: 4, slice_days: 1"))
    for n in range(2):
        events = [made_event(n, i) for i in range(40)]
        events[7]["shop"] = "none"
        write(made.data, f"date={day(n):%Y-%m-%d}/all.jsonl", events)
    return made


def made_event(n: int, i: int) -> dict[str, Any]:
    at = day(n) + timedelta(minutes=30 * i)
    return {"order_id": f"{n}-{i}", "shop": i % 7, "city": f"c{i % 5}", "amount": float(i), "at": at.isoformat()}


def letters(run: runs.Run) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run.folder / "dead_letters").rglob("*.parquet")}


@pytest.mark.parametrize("step", ["rows", "tiles", "offline"])
def test_what_a_failed_attempt_still_writes_changes_nothing(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = orders(tmp_path / "undisturbed")
    wanted = run_batch(undisturbed.repo(), day(0), day(2), now=NOW).run
    assert wanted.manifest["rejected"]
    world, writer = orders(tmp_path / "world"), LateWriter(step)
    monkeypatch.setattr(steps, "write_parquet", writer)
    with pytest.raises(DataError, match=r"No space left.*run the same command again"):
        run_batch(world.repo(), day(0), day(2), now=NOW)
    assert not layout.offline(world.data).exists()
    writer.failing = False
    made = run_batch(world.repo(), day(0), day(2), now=NOW, progress=lambda line: writer.write_late()).run
    assert writer.times > 10
    assert file_bytes(world, made.id) == file_bytes(undisturbed, wanted.id) and letters(made) == letters(wanted) != {}
    assert made.manifest["rows"] == wanted.manifest["rows"]
    assert {p.name for p in made.folder.iterdir()} <= {"manifest.json", ".lock", "dead_letters", "tiles"}
    assert runs.find(world.data, made.id).status == "complete"
    assert [p.name for p in layout.attempts(world.data).iterdir()] == []


class PowerCut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("left_at", ["failed", "killed", "publishing"])
def test_what_an_earlier_version_left_in_the_runs_folder_goes(tmp_path: Path, left_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It made all of a run there: rows of people would stay, twice."""
    world = orders(tmp_path)
    with monkeypatch.context() as patch:
        if left_at == "failed":
            patch.setattr(steps, "write_parquet", stopped(OSError(28, "full")))
        elif left_at == "killed":
            patch.setattr(RowJobs, "_windows", stopped(PowerCut()))
        else:
            patch.setattr(batch_job, "write_cover", stopped(PowerCut()))
        with pytest.raises(DataError if left_at == "failed" else PowerCut):
            run_batch(world.repo(), day(0), day(2), now=NOW)
    (run,) = runs.list_runs(world.data)
    assert run.stage == "publishing" if left_at == "publishing" else not (run.folder / "tiles").exists()
    for name in ("rows/orders/0.parquet", "learn/1/a.json", "analyze-abc/tmp/x", "stats.json", "spans.json", "nonfinite.json"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text("{}")
    made = run_batch(world.repo(), day(0), day(2), now=NOW).run
    assert made.id == run.id and made.status == "complete" and file_bytes(world, made.id)
    assert {p.name for p in made.folder.iterdir()} <= {"manifest.json", ".lock", "dead_letters", "tiles"}


def stopped(error: BaseException) -> Callable[..., None]:
    def stop(*given: object) -> None:
        raise error

    return stop


def test_what_is_left_of_attempts_is_vacuumed_once_nobody_is_at_work_on_their_run(tmp_path: Path) -> None:
    world = orders(tmp_path)
    run = run_batch(world.repo(), day(0), day(2), now=NOW).run
    left = layout.attempts(world.data) / run.id / "0123456789abcdef" / "rows" / "g.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"late")
    later = datetime(2090, 1, 1, tzinfo=UTC)
    assert vacuum(world.repo(), datetime.now(UTC), timedelta(days=1)) == []
    (gone,) = vacuum(world.repo(), later, timedelta(days=1))
    assert (gone["kind"], gone["name"], gone["bytes"]) == ("unlisted", f"runs/.work/{run.id}", 4)
    assert not left.exists() and run.folder.is_dir()
    left.parent.mkdir(parents=True)
    with run.held():
        run.save(status="running")
        assert [t["name"] for t in vacuum(world.repo(), later, timedelta(days=1), dry_run=True)] == []


def test_in_a_store_too_each_attempt_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hand on what they make through the store: those of a driver that was cut off meet nothing of the one after it."""
    data = machines(tmp_path, monkeypatch)("a", "s3://bucket")
    cache = cache_of(data)
    assert cache is not None
    store = cache.store
    monkeypatch.setattr(file_addresses, "connect", lambda url: store)
    run = runs.begin(data, "batch", {"of": "this"}, NOW)
    one, two = (WorkPlace(data, run, elsewhere=True) for _ in range(2))

    def write(place: WorkPlace, name: str, content: bytes) -> None:
        with file_addresses.writing(f"{place.top}/tiles/g/{name}") as path:
            path.write_bytes(content)

    with one.attempt():
        write(one, "0.parquet", b"one")
    write(one, "0.parquet", b"one, late")
    with two.attempt():
        assert list(store.list("work/")) == []
        write(two, "0.parquet", b"two")
        write(one, "0.parquet", b"one, late")
        write(one, "1.parquet", b"one, late")
        two.bring(("tiles",), ())
        two.hand_over("tiles", "offline")
    assert {p.name: p.read_bytes() for p in (run.folder / "tiles/g").iterdir()} == {"0.parquet": b"two"}
    assert list(store.list("work/")) == []
