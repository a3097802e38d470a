"""The demo itself, over one month: as a user runs it, in a process of its own, on a copy of the repository."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.models import to_model_inputs
from serving.request_log import read_requests
from tests.commands_here import tandem_here
from tests.listening import descendants, listeners
from transforms.graph import TransformGraph

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("origin_traffic", "carrier_traffic", "route_arrivals", "aircraft", "origin_weather")
RANGE = ("--start", "2013-01-01", "--end", "2013-02-01")
DAYS = ("--stream-days", "1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(folder: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *args, "--repo", str(folder / "feature_repo")]


def told(folder: Path, *args: str) -> Any:
    return json.loads(tandem_here(folder / "feature_repo", *args, "--json"))


HEARD: set[tuple[str, int]] = set()
"""(address, port) on which the demo, or anything that it started, ever listened."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        demo = subprocess.Popen(command(folder, "demo", *RANGE, *DAYS, "--json"), cwd=ROOT, stdout=out, stderr=err)
        deadline = time.monotonic() + 800
        while demo.poll() is None and time.monotonic() < deadline:
            HEARD.update((address, port) for _, address, port in listeners(descendants(demo.pid)))
            time.sleep(0.5)
        demo.kill()
    assert demo.wait() == 0, (folder / "err").read_text()[-3000:]
    return folder, json.loads((folder / "out").read_text())


def test_nothing_of_it_is_reached_from_another_machine(demo: tuple[Path, dict[str, Any]]) -> None:
    """SECURITY C1: from its start to its end, with broker, stream, engine and server."""
    assert len(HEARD) >= 2, "a broker and a server at least"
    assert [each for each in sorted(HEARD) if not ipaddress.ip_address(each[0]).is_loopback] == []


def test_it_goes_from_events_to_an_answer(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = demo
    assert set(summary["rows"]) == set(GROUPS) and all(n > 1000 for n in summary["rows"].values())
    assert sum(summary["events"].values()) > 50_000
    assert summary["version"] == 1 and (folder / "data/models/late_flights/1/saved_model.pb").is_file()


def test_the_model_answered_while_features_changed_under_it(demo: tuple[Path, dict[str, Any]]) -> None:
    live = demo[1]["live"]
    predictions = [a["prediction"] for a in live["answers"]]
    assert len(predictions) > 10 and all(0 < p < 1 for p in predictions)
    assert len(set(predictions)) > 3
    assert len({json.dumps(a["features"]) for a in live["answers"]}) > 3
    assert live["stream"]["events"] > 1000 and live["stream"]["written"] > 1000


def test_stream_and_batch_agree_and_the_page_is_there(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, parity = demo[0], demo[1]["live"]["parity"]
    assert parity["unexplained"] == 0 and parity["problems"] == []
    assert parity["values"]["compared"] > 10_000
    assert set(parity["values"]["different"]) <= {"too late"}
    assert Path(parity["page"]).is_relative_to(folder) and Path(parity["page"]).is_file()
    log = read_requests(folder / "data/requests")
    assert log.num_rows > 300 and log.column("tandem_request").null_count == 0


def test_nothing_runs_on(demo: tuple[Path, dict[str, Any]]) -> None:
    assert told(demo[0], "status")["kafka"]["state"] == "stopped"
    assert not told(demo[0], "stream", "status", "--name", "demo")["running"]


def test_the_stream_features_help(demo: tuple[Path, dict[str, Any]]) -> None:
    overall = {s["predictor"]: s for s in demo[1]["scores"]["scores"] if not s.get("slice")}
    base, plain, full = overall["base rate"], overall["request fields"], overall["all features"]
    assert full["auc"] > plain["auc"] > base["auc"] == 0.5
    assert full["log_loss"] < plain["log_loss"]


def rows_of(folder: Path, group: str) -> pa.Table:
    files = sorted((folder / "data/offline" / group).glob("run=*/*/*.parquet"))
    return pa.concat_tables([pq.ParquetFile(f).read() for f in files]).combine_chunks()


@pytest.mark.parametrize("group", GROUPS)
def test_rows_are_what_the_applied_graph_makes_of_their_aggregates(demo: tuple[Path, dict[str, Any]], group: str) -> None:
    rows = rows_of(demo[0], group)
    fingerprint = (demo[0] / "data/graphs" / group / "CURRENT").read_text().strip()
    assert rows.column("tandem_fingerprint").unique().to_pylist() == [fingerprint]
    graph = TransformGraph.load(demo[0] / "data/graphs" / group / fingerprint, fingerprint)
    some = rows.take(np.random.default_rng(1).choice(rows.num_rows, 300, replace=False)).combine_chunks().to_batches()[0]
    together = graph.apply(some)
    assert together.schema.names
    for i in range(0, some.num_rows, 17):
        assert graph.apply(some.slice(i, 1)).equals(together.slice(i, 1)), f"row {i} depends on its batch"
    for name in together.schema.names:
        assert together.column(together.schema.get_field_index(name)).equals(some.column(some.schema.get_field_index(name))), name


def test_the_model_is_fed_the_stored_bits(demo: tuple[Path, dict[str, Any]]) -> None:
    """The exported model's inputs, float32 by float32, are the offline rows' values that the graph made."""
    folder = demo[0]
    spec = json.loads((folder / "data/models/late_flights/1/tandem.json").read_text())
    for group in GROUPS:
        rows = rows_of(folder, group).slice(0, 200)
        graph = TransformGraph.load(folder / "data/graphs" / group / spec["fingerprints"][group])
        made = [n for n in graph.output_schema.names if [f"{group}__{n}", "float32"] in spec["inputs"]]
        assert made
        table = pa.table({f"{group}__{n}": rows.column(n) for n in made})
        fed = to_model_inputs(table, [(f"{group}__{n}", "float32") for n in made])
        for n in made:
            stored = rows.column(n).cast(pa.float32()).combine_chunks().fill_null(float("nan")).to_numpy(zero_copy_only=False)
            assert fed[f"{group}__{n}"].dtype == np.float32
            assert fed[f"{group}__{n}"][:, 0].tobytes() == stored.tobytes()


def test_a_second_batch_of_the_same_inputs_makes_nothing_new(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = demo
    assert told(folder, "batch", *RANGE)["id"] == summary["run"]
    assert len(list((folder / "data/offline/aircraft").iterdir())) == 1
