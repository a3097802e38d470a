"""Batch runs made again, compared, and traced back to from an answer; over real days of flights, without preprocessing functions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pipelines.cli.root import app
from pipelines.lake import runs
from pipelines.lineage import trace_html as html
from pipelines.lineage.diff import render as render_diff
from pipelines.lineage.reproduce import render, reproduce
from pipelines.lineage.trace import trace
from pipelines.lineage.trace_record import Trace
from pipelines.lineage.trace_text import lines, tree
from pipelines.project import recording
from tests.applied import apply_run
from tests.integration.flights import NOW, World, environment, make_world, offline_rows
from transforms.errors import DataError

VIEW = "origin_traffic"


@pytest.fixture(scope="module")
def world(logs, tmp_path_factory) -> World:
    """A run over all days but the last, whose events come later; nothing here alters it."""
    made = make_world(tmp_path_factory.mktemp("lineage"), logs)
    assert apply_run(made.repo(), made.run().run)
    return made


@pytest.fixture
def changing(world, tmp_path) -> World:
    """A copy of the world for tests that change it."""
    shutil.copytree(world.folder, tmp_path / "world")
    return World(tmp_path / "world")


def batch_run(world: World) -> runs.Run:
    return next(r for r in runs.list_runs(world.data) if r.kind == "batch")


def append_days(world: World) -> None:
    """New days of every log, and a file more in a day that the run read."""
    for log in (world.data / "events").iterdir():
        some = next(log.rglob("*.parquet"))
        for name in ("date=2013-02-01/part-0.parquet", f"{sorted(log.glob('date=*'))[2].name}/part-9.parquet"):
            (log / name).parent.mkdir(exist_ok=True)
            shutil.copy(some, log / name)


def test_a_batch_run_is_made_again_bit_by_bit_though_days_were_appended(changing):
    run = batch_run(changing)
    append_days(changing)
    before = {p: p.stat().st_mtime_ns for p in changing.data.rglob("*") if p.is_file() and "/runs/" not in str(p)}
    result = reproduce(changing.repo(), run.id)
    assert result["verdict"] == "identical"
    assert {a["name"] for a in result["artifacts"]} == {f"{k} of {n}" for k in ("rows", "graph") for n in changing.repo().groups}
    assert any("event files that the run did not read" in n for n in result["notes"]) and not any(
        c.startswith("input") for c in result["causes"]
    )
    assert {p: p.stat().st_mtime_ns for p in changing.data.rglob("*") if p.is_file() and "/runs/" not in str(p)} == before
    assert render(result)[0] == f"run {run.id}: reproduced, identical bytes"
    own = runs.list_runs(changing.data)[-1]
    assert (own.kind, own.status, own.manifest["of_run"], own.manifest["verdict"]) == ("reproduce", "complete", run.id, "identical")


@pytest.mark.slow
def test_a_changed_definition_is_the_reason_that_reproduce_and_diff_name(changing):
    first = batch_run(changing)
    text = (changing.repo_path / "features.py").read_text()
    assert "hop=minutes(5)" in text
    (changing.repo_path / "features.py").write_text(text.replace("hop=minutes(5)", "hop=minutes(10)", 1))
    done = subprocess.run(
        changing.command("reproduce", first.id, "--repo", str(changing.repo_path), "--json"),
        env=environment(),
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout)
    assert done.returncode == 1 and result["verdict"] == "different"
    assert f"definition changed: group {VIEW}, hop: 5min -> 10min" in result["causes"]
    verdicts = {a["name"]: a["verdict"] for a in result["artifacts"]}
    assert verdicts[f"rows of {VIEW}"] == "different" and verdicts["rows of aircraft"] == "identical"
    json_ = changing.batch_command()
    second = json.loads(subprocess.run(json_, env=environment(), capture_output=True, text=True, check=True).stdout)
    told = render_diff(first.manifest, second)
    at = told.index("definitions")
    assert told[at + 1] == f"  group {VIEW}, hop: 5min -> 10min"
    assert "  repo/features.py changed" in told[at:] and "inputs" not in told and at < told.index("fingerprints") < told.index("outputs")


def test_an_altered_and_a_missing_input_are_named(changing):
    run = batch_run(changing)
    files = [f["file"] for f in run.manifest["inputs"]["departures"]]
    altered, gone = changing.data / files[1], changing.data / files[2]
    table = pq.read_table(altered, partitioning=None)
    pq.write_table(table.slice(5), altered)
    gone.unlink()
    result = reproduce(changing.repo(), run.id)
    assert result["verdict"] == "different"
    assert any(c.startswith(f"input changed: {files[1]} is altered (sha256 ") for c in result["causes"])
    assert f"input changed: {files[2]} is gone" in result["causes"]
    rows = next(a for a in result["artifacts"] if a["name"] == f"rows of {VIEW}")
    assert rows["verdict"] == "different" and "rows then" in rows["detail"]


def test_what_cannot_be_made_again_is_said(changing):
    run = batch_run(changing)
    with recording.recorded(changing.repo(), "labels") as other:
        pass
    with pytest.raises(DataError, match="only train and batch runs can be reproduced"):
        reproduce(changing.repo(), other.id)
    run.save(status="failed")
    with pytest.raises(DataError, match="is failed, not complete"):
        reproduce(changing.repo(), run.id)


# -------------------------------------------------------------------------------------------------------------------------- lineage


def answer(world: World, request: str = "r-1", **changes) -> None:
    """Log an answer that was made of the newest stored row of JFK, as the server does."""
    group = world.repo().groups[VIEW]
    rows = offline_rows(world.data, group, batch_run(world).id)
    row = rows.filter(pa.compute.equal(rows.column("origin"), "JFK")).slice(rows.num_rows).to_pylist() or [
        r for r in rows.to_pylist() if r["origin"] == "JFK"
    ]
    last = row[-1]
    at = datetime(2013, 3, 1, tzinfo=UTC)
    values = {
        "tandem_request": request, "tandem_row": 0, "tandem_at": at, "tandem_as_of": at, "tandem_endpoint": "predict",
        "tandem_model": "late_flights", "tandem_version": 3, "tandem_run": "train-gone", "tandem_prediction": 0.25, "origin": "JFK",
        "note": "<script>alert(1)</script>", f"{VIEW}__tandem_status": "PRESENT", f"{VIEW}__event_timestamp": last["event_timestamp"],
        f"{VIEW}__tandem_age": 60.0, f"{VIEW}__tandem_revision": last["tandem_revision"],
        f"{VIEW}__tandem_fingerprint": last["tandem_fingerprint"], f"{VIEW}__count_1h": last["count_1h"], **changes,
    }  # fmt: skip
    folder = world.data / "requests" / "date=2013-03-01"
    folder.mkdir(parents=True, exist_ok=True)
    types = {k: pa.array([v], pa.timestamp("us", tz="UTC") if isinstance(v, datetime) else None) for k, v in values.items()}
    pq.write_table(pa.table(types), folder / f"{request}.parquet")


def test_an_answer_is_traced_to_rows_graph_and_event_files(changing):
    answer(changing)
    run = batch_run(changing)
    (changing.data / "models" / "late_flights" / "3").mkdir(parents=True)
    (changing.data / "models" / "late_flights" / "3" / "tandem.json").write_text(json.dumps({"training_set": "abc", "run": "train-gone"}))
    traced = trace(changing.repo(), "r-1")
    found = traced.to_dict()
    assert Trace.of(json.loads(json.dumps(found))) == traced and found["format"] == 1
    assert (found["prediction"], found["model_version"]["version"], found["model_version"]["there"]) == (0.25, 3, True)
    assert found["training_run"] == {"id": "train-gone", "recorded": False} and found["training_set"]["id"] == "abc"
    (view,) = found["views"]
    assert view["key"] == {"origin": "JFK"} and [w["run"] for w in view["writers"]] == [run.id]
    assert view["graph"]["made_by"] == run.id and view["graph"]["applied_now"] is True
    boundary = datetime.fromisoformat(view["event_timestamp"]) - timedelta(minutes=1)
    days = {(boundary - ago).date().isoformat() for ago in (timedelta(microseconds=1), timedelta(hours=24))}
    assert {f["file"].split("date=")[1][:10] for f in view["events"]["files"]} == days
    assert {f["now"] for f in view["events"]["files"]} == {"as it was"} and found["notes"] == []
    newer = changing.data / "training" / "abc" / "manifest.json"
    newer.parent.mkdir(parents=True)
    newer.write_text('{"format": 9}')
    odd = trace(changing.repo(), "r-1").to_dict()
    assert odd["views"] == found["views"] and "rows" not in odd["training_set"]
    (note,) = odd["notes"]
    assert note.endswith("manifest.json is of a newer Tandem (format 9, this one knows 1); use that one")
    newer.unlink()
    os.remove(changing.data / view["events"]["files"][0]["file"])
    again = trace(changing.repo(), "r-1")
    assert next(f["now"] for f in again.to_dict()["views"][0]["events"]["files"]) == "gone"
    told = "\n".join(line for _, line in lines(again))
    assert f"written by run {run.id}" in told and "gone" in told
    assert tree(again).label


def test_the_newest_run_that_was_there_then_is_told_and_no_later_one(changing):
    answer(changing)
    sooner = changing.run(now=NOW + timedelta(days=1), rerun=True).run
    later = changing.run(now=NOW + timedelta(days=300), rerun=True).run  # made after the answer
    (view,) = trace(changing.repo(), "r-1").views
    assert [w["run"] for w in view["writers"]] == [batch_run(changing).id, sooner.id] and later.status == "complete"


def test_a_row_that_is_no_longer_there_is_said(changing):
    changes: dict[str, Any] = {f"{VIEW}__tandem_revision": 10**6}
    answer(changing, **changes)
    found = trace(changing.repo(), "r-1")
    assert found.views[0]["writers"] == [] and "no stored row of origin=JFK" in found.notes[0]


@pytest.mark.parametrize(
    ("request_id", "row", "line"), [("nope", 0, "has no response for request 'nope'"), ("r-1", 7, "has no row 7; it has 0")]
)
def test_what_is_not_in_the_log(world, changing, request_id, row, line):
    answer(changing)
    with pytest.raises(DataError, match=line):
        trace(changing.repo(), request_id, row)


def test_the_piece_of_html_is_whole_and_escaped(changing):
    answer(changing)
    whole = html.render_page(trace(changing.repo(), "r-1"))  # FAULTS 35: a page of its own
    assert whole.startswith("<!doctype html>") and "<script" not in whole and "Request r-1, row 0" in whole
    page = html.section(trace(changing.repo(), "r-1"))
    assert "<script>" not in page and "&lt;script&gt;" in page
    open_: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            open_.append(tag)

        def handle_endtag(self, tag):
            assert open_.pop() == tag

    Checker().feed(page)
    assert open_ == []


def test_commands_speak_to_people_and_machines(changing):
    answer(changing)
    run = batch_run(changing)
    broken = changing.data / "runs" / "batch-broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")

    def tandem(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--repo", str(changing.repo_path)], env={"COLUMNS": "240"})

    listed = tandem("runs")
    assert listed.exit_code == 0 and run.id in listed.output and "run batch-broken: its manifest cannot be read" in listed.output
    broken.joinpath("manifest.json").unlink()
    assert [r["id"] for r in json.loads(tandem("runs", "list", "--kind", "batch", "--json").stdout)["runs"]] == [run.id]
    assert "no runs of kind bach; there are batch" in tandem("runs", "--kind", "bach").output
    assert json.loads(tandem("runs", "show", run.id, "--json").stdout) == run.manifest
    assert "origin_traffic" in tandem("runs", "show", "batch-2").stdout
    assert "nothing differs" in tandem("runs", "diff", run.id, run.id).stdout
    assert json.loads(tandem("runs", "diff", run.id, run.id, "--json").stdout)["equal"] is True
    told = tandem("lineage", "r-1")
    assert told.exit_code == 0 and f"written by run {run.id}" in told.stdout
    assert json.loads(tandem("lineage", "r-1", "--json").stdout)["prediction"] == 0.25
    wrong = tandem("runs", "show", "nope")
    assert wrong.exit_code == 1 and str(wrong.exception).startswith("no run is called 'nope'")
