"""``tandem batch`` learns graphs share by share: the same bits whoever learns which, and what is exact is that of all rows at once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import learn_steps
from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.batch_job import BatchResult, run_batch
from pipelines.batch.beam_options import BeamEngine
from pipelines.batch.learning import Asked
from pipelines.batch.row_shares import RowRange
from tests.integration.orders_world import Orders
from tests.integration.prepared_world import prepared, twin
from tests.integration.test_continued_batch import NOW, day, file_bytes
from transforms.definitions import CREATED, FINGERPRINT


def made(world: Orders, engine: BatchEngine | None = None) -> BatchResult:
    return run_batch(world.repo(), day(0), day(3), now=NOW, engine=engine)


def rows(world: Orders, run: BatchResult, group: str) -> pa.Table:
    files = sorted((world.data / "offline" / group / f"run={run.run.id}").rglob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(f).read() for f in files]).drop([CREATED, FINGERPRINT])


def workers(mode: str) -> BeamEngine:
    return BeamEngine(args=["--direct_num_workers=2", f"--direct_running_mode={mode}"])


@pytest.fixture(scope="module")
def in_shares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Orders, BatchResult]:
    """Learnt share by share in this process."""
    world = prepared(tmp_path_factory.mktemp("shares"), learn_rows=200)
    return world, made(world)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.scale)])
def test_workers_learn_the_bits_that_one_process_learns(
    in_shares: tuple[Orders, BatchResult], tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, here = in_shares
    seen: list[tuple[str, int]] = []
    genuine = learn_steps.Workers.accumulated

    def accumulated(self: learn_steps.Workers, asked: dict[str, Asked], shares: dict[str, list[list[RowRange]]]) -> object:
        seen.extend((name, len(shares[name])) for name in asked)
        return genuine(self, asked, shares)

    monkeypatch.setattr(learn_steps.Workers, "accumulated", accumulated)
    other = twin(world, tmp_path / "workers", learn_rows=200)
    there = made(other, workers(mode))
    assert there.run.record.fingerprints == here.run.record.fingerprints
    assert file_bytes(other, there.run.id) == file_bytes(world, here.run.id)
    assert [name for name, _ in seen].count("shop_orders") == 2, "a round per phase"
    assert all(n > 1 for _, n in seen) and max(n for _, n in seen) > 5
    files = list((world.data / "offline/shop_orders" / f"run={here.run.id}").rglob("*.parquet"))
    assert len(files) > 3 and all(pq.read_metadata(f).num_rows > 200 for f in files), "each is cut"
    assert not (there.run.folder / "learn").exists(), "what workers sent is gone when it is learnt"


@pytest.mark.slow
def test_what_is_exact_is_that_of_all_rows_and_the_rest_is_as_near_as_its_sums(
    in_shares: tuple[Orders, BatchResult], tmp_path: Path
) -> None:
    other, shares = in_shares
    world = twin(other, tmp_path / "whole", learn_rows=10**9)
    whole = made(world)
    a, b = rows(world, whole, "shop_orders"), rows(other, shares, "shop_orders")
    assert a.num_rows == b.num_rows > 1000
    assert a.drop(["number_z", "mean_bucket", "total"]) == b.drop(["number_z", "mean_bucket", "total"]), "extremes, also of each key"
    for name in ("number_z", "total"):
        assert a[name].to_pylist() == pytest.approx(b[name].to_pylist(), rel=1e-5)
    for vocabulary in ("counts", "weighed"):
        files = [
            next((w.data / "graphs/shop_orders" / r.run.record.fingerprints["shop_orders"]).rglob(f"{vocabulary}*"))
            for w, r in ((world, whole), (other, shares))
        ]
        assert files[0].read_bytes() == files[1].read_bytes(), vocabulary
