"""Parity over two weeks of real flights: out of order, doubled, late and broken on the way, and yet no cell is unexplained.

`tandem replay` sends them through a real broker, `tandem stream` makes rows on real Flink (or in process), `tandem verify` compares
with a batch run over the same events; the online store and a sample of entities are compared with the oracle as well.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.services.kafka_broker import Broker
from tests.prove import check
from tests.prove.report import Part
from tests.prove.rig import Rig, Stream, until
from tests.prove.slice import FORTNIGHT, Slice, make_slice, open_slice, tandem
from tests.prove.test_crash import numbers

SAMPLE = 8
"""Entities per group whose rows are confirmed by brute force."""
IDLE_SECONDS = 20
FEW = [("flink", "redis", 4, 8), ("direct", "sqlite", 1, 1)]
MORE = [
    ("flink", "sqlite", 4, 8),
    ("flink", "sqlite", 1, 1),
    ("flink", "redis", 1, 8),
    ("direct", "redis", 1, 1),
    ("direct", "redis", 4, 1),
    ("direct", "sqlite", 4, 1),
    ("direct", "sqlite", 1, 8),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    many = metafunc.config.getoption("--trials") >= 20
    metafunc.parametrize(("runner", "store", "partitions", "shards"), [*FEW, *(MORE if many else [])])


@pytest.fixture(scope="session")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("fortnight"), FORTNIGHT, light=False)


def test_stream_and_batch_give_the_same_numbers(
    runner: str, store: str, partitions: int, shards: int, fortnight: Slice, broker: Broker, tmp_path: Path, report: Part
) -> None:
    # Three stations report the weather, so that of four partitions one stays empty: it must not hold back the others for ever.
    live = runner == "flink"
    slice_ = open_slice(fortnight.folder, fortnight.range, fortnight.how, partitions, idle=live, ended=not live)
    idle: dict[str, Any] = {"idle_seconds": IDLE_SECONDS} if live else {}
    rig = Rig(tmp_path / "rig", slice_, broker, next(numbers), store, **idle)
    stream, begun = rig.stream(shards=shards), time.monotonic()
    try:
        if live:
            stream.start()
            sent = replay(rig, speed="20000")
            stream.wait(sent)
            due = slice_.due(sent, rows=True, sample=SAMPLE).output_watermark
            until(
                lambda: all(p["output_watermark"] == due for p in stream.control.load_checkpoints().values()), "idle", check=stream.running
            )
            assert stream.stop() == 0, stream.tail()
        else:
            sent = replay(rig, speed="max")
            stream.start("--runner", "direct", "--until", "latest")
            assert stream.process is not None
            assert stream.process.wait(900) == 0, stream.tail()
        entry = prove(rig, stream, sent)
    finally:
        rig.close()
    setting = {"runner": runner, "store": store, "partitions": partitions, "shards": shards}
    report.table("parity").append({**setting, **entry, "seconds": round(time.monotonic() - begun, 1)})
    assert not entry["problems"], entry["problems"]


def replay(rig: Rig, speed: str) -> int:
    """`tandem replay` of the slice; the number of records."""
    how, range_ = rig.slice.how, rig.slice.range
    words = ["--start", range_.start.isoformat(), "--end", range_.end.isoformat(), "--speed", speed, "--seed", str(how.seed), "--json"]
    shares = {"disorder": how.disorder, "late": how.late, "duplicates": how.duplicates, "corrupt": how.corrupt}
    words += [word for name, share in shares.items() for word in (f"--{name}", str(share))]
    sent: int = json.loads(tandem(rig.repo_path, "replay", *words))["sent"]
    assert sent == len(rig.slice.records)
    return sent


def prove(rig: Rig, stream: Stream, sent: int) -> dict[str, object]:
    """What ``tandem verify`` says, and what else differs from what is due."""
    result = json.loads(tandem(rig.repo_path, "verify", "--name", stream.name, "--json"))
    due = rig.slice.due(sent, rows=True, sample=SAMPLE)
    problems = check.online(rig, sent) + check.late_log(stream, sent) + check.dead_letters(rig, sent)[0] + check.row_log(stream, sent)
    return {
        "records": sent,
        "rows": sum(map(len, due.rows.values())),
        "online": sum(map(len, due.online.values())),
        "late": len(due.late),
        "dead_letters": len(due.broken),
        "unexplained": result["unexplained"],
        "problems": problems[:10],
    }
