"""FAULTS 28: one ``tandem dlq`` over the dead letters of batch runs and of the stream; a broker is not needed for those of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.batch.batch_job import run_batch
from pipelines.cli.root import app
from pipelines.project.repository import load_repo
from transforms.errors import DataError, RejectLimitError
from transforms.instants import instant

START = 1_714_521_600_000_000
FEATURES = """
from transforms.definitions import *

orders = EventSource(
    name="orders", event_time="at", tie_breaker="id", files="events/orders", topic="orders",
    fields=[Field("id", "string", required=True), Field("shop", "int64", required=True), Field("city", "string", domain=["a"])],
)
shops = FeatureGroup(name="shops", source=orders, entity=Entity("shop"), hop=hours(1), ttl=hours(9), aggregates=[Count(over=hours(1))])
"""
AT = f'"at":{START + 1_000_000}'
LINES = [
    f'{{"id":"1","shop":1,{AT}}}',
    f'{{"id":"2","shop":null,{AT}}}',
    f'{{"id":"3",{AT}}}',
    f'{{"id":"4","shop":1,"city":"[/x]\\u001b[2J",{AT}}}',
    "[",
]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder, log = tmp_path / "repo", tmp_path / "data" / "events" / "orders"
    folder.mkdir()
    log.mkdir(parents=True)
    settings = "data: ../data\ndefinitions: dlq_batch_features\nkafka: {bootstrap_servers: '127.0.0.1:9'}\nbatch: {max_reject_share: 0.9}\n"
    (folder / "tandem.yaml").write_text(settings)
    (folder / "dlq_batch_features.py").write_text(FEATURES)
    (log / "a.jsonl").write_text("\n".join(LINES))
    (log / "b.parquet").write_bytes(b"no parquet")
    return folder


def run(repo: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["dlq", *words, "--repo", str(repo)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def make(repo: Path) -> str:
    return run_batch(load_repo(repo), instant(START), instant(START + 86_400_000_000), now=instant(START + 10**11)).run.id


def test_dead_letters_of_a_batch_run(repo: Path) -> None:
    """FAULTS 28: counted with the fields, listed with places that show takes, shown as they came; the broker that is away is said."""
    made = make(repo)
    value = json.loads(run(repo, "list", "--json"))
    assert "127.0.0.1:9" in value["problem"]
    batch = value["batch"]
    assert (batch["run"], batch["records"]) == (made, 5)
    assert {(c["reason"], c["records"]) for c in batch["counts"]} == {
        ("malformed", 1), ("missing_field", 2), ("not_in_domain", 1), ("unreadable_file", 1),
    }  # fmt: skip
    assert batch["fields"] == {"orders/missing_field/shop": 2, "orders/not_in_domain/city": 1}
    places = [a["record"] for a in batch["first"]]
    assert places == [*(f"events/orders/a.jsonl:{i}" for i in (1, 2, 3, 4)), "events/orders/b.parquet"]
    text = run(repo, "list", "--only", "batch")
    assert "missing_field (shop 2)" in text and all(place in text for place in places)
    assert "\x1b" not in text and "[/x]" in text
    shown = [json.loads(run(repo, "show", place, "--json")) for place in places]
    assert [s["payload"] and s["payload"].get("text") for s in shown] == [*LINES[1:], None]
    assert shown[0]["contract_now"] == "missing_field: shop is missing or null"
    assert shown[0]["event_time"] == "2024-05-01T00:00:01Z"
    assert "the file could not be read at all" in shown[-1]["contract_now"]
    assert "events/orders/a.jsonl:1" in run(repo, "show", places[0])


def test_choices_and_mistakes(repo: Path) -> None:
    """FAULTS 28."""
    first = make(repo)
    count = json.loads(run(repo, "list", "--json", "--only", "batch", "--reject-reason", "missing_field", "--limit", "1"))["batch"]
    assert (count["records"], len(count["first"])) == (2, 1)
    assert json.loads(run(repo, "list", "--json", "--only", "batch", "--source", "nobody"))["batch"]["records"] == 0
    assert json.loads(run(repo, "list", "--json", "--only", "batch", "--since", "2030-01-01"))["batch"]["records"] == 0
    (repo.parent / "data/events/orders/b.parquet").unlink()
    second = make(repo)
    assert second != first
    assert json.loads(run(repo, "list", "--json", "--only", "batch"))["batch"]["records"] == 4
    assert json.loads(run(repo, "list", "--json", "--only", "batch", "--run", first))["batch"]["records"] == 5
    for words, says in (
        (["show", "events/orders/a.jsonl:0"], "has no dead letter for"),
        (["list", "--run", "x"], "no run is called 'x'"),
    ):
        result = CliRunner().invoke(app, ["dlq", *words, "--repo", str(repo)])
        assert isinstance(result.exception, DataError)
        assert says in str(result.exception)


def test_letters_of_a_run_that_its_rejects_stopped(repo: Path) -> None:
    """FAULTS 28: it is then that somebody looks for them; the error names the field."""
    (repo / "tandem.yaml").write_text((repo / "tandem.yaml").read_text().replace("0.9", "0.1"))
    with pytest.raises(RejectLimitError, match=r"most of them orders/missing_field \(shop 2\)"):
        make(repo)
    assert json.loads(run(repo, "list", "--json", "--only", "batch"))["batch"]["records"] == 5


def test_a_line_of_a_text_file_is_judged_by_its_dialect(repo: Path) -> None:
    """By the header of its file, in the encoding that the file has; a contract that takes it now says so."""
    features = repo / "dlq_batch_features.py"
    dialect = FEATURES.replace('topic="orders",', 'topic="orders", file_format=Csv(delimiter=";", encoding="cp1252"),')
    features.write_text(dialect)
    lines = f"at;id;shop;city\n{START + 1};1;1;a\n{START + 2};2;1;Köln\n{START + 3};3\n"
    (repo.parent / "data/events/orders/c.csv").write_bytes(lines.encode("cp1252"))
    make(repo)
    shown = json.loads(run(repo, "show", "events/orders/c.csv:2", "--json"))
    assert (shown["reason"], shown["contract_now"]) == ("not_in_domain", "not_in_domain: city='Köln' is none of 'a'")
    assert "malformed: it has 2 values, where there are 4 columns" in run(repo, "show", "events/orders/c.csv:3")
    (repo / "dlq_batch_wider.py").write_text(dialect.replace('domain=["a"]', 'domain=["a", "Köln"]'))
    settings = repo / "tandem.yaml"
    settings.write_text(settings.read_text().replace("dlq_batch_features", "dlq_batch_wider"))
    shown = json.loads(run(repo, "show", "events/orders/c.csv:2", "--json"))
    assert (shown["contract_now"], shown["event_time"]) == ("valid", "2024-05-01T00:00:00Z")
    (repo.parent / "data/events/orders/c.csv").unlink()
    assert "unknown: events/orders/c.csv, whose header names" in run(repo, "show", "events/orders/c.csv:2")
