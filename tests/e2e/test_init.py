"""``tandem init``: the repository that it makes works as it stands, with other names and types than the flights'.

That what it says next trains and serves is the business of ``test_wheel.py``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipelines.demo.scaffold import scaffold
from pipelines.project.repository import Repo, load_module, load_repo
from tests.commands_here import forgotten, tandem_here
from tests.oracle.compare import assert_same_rows, bits, differences, to_dicts
from tests.oracle.features import rows as oracle_rows
from transforms.definitions import FeatureGroup, micros
from transforms.errors import ConfigError

ROOT = Path(__file__).parents[2]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START, END = datetime(2024, 3, 6, tzinfo=UTC), datetime(2024, 3, 7, 12, tzinfo=UTC)
RANGE = ["--start", "2024-03-06", "--end", "2024-03-07T12:00"]


def tandem(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """The command as a process, as a person runs it from another folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, f"tandem {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository from ``tandem init``."""
    folder = tmp_path_factory.mktemp("init") / "a shop"
    said = tandem("init", str(folder)).stdout
    assert "features.py" in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  tandem ")]
    assert [c[1] for c in commands] == ["events", "batch", "apply", "materialize", "train", "serve"]
    assert all(c[2:4] == ["--repo", str(folder)] for c in commands)
    option, day = commands.pop()[4:]  # by today's clock all rows of the invented events are too old to serve
    assert option == "--as-of" and f"end: {day}\n" in (folder / "tandem.yaml").read_text()
    assert not any(c[4:] for c in commands)
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict[str, Any]:
    """A day and a half of it, from events to the online store; the batch run's manifest."""
    tandem_here(folder, "events", *RANGE)
    made: dict[str, Any] = json.loads(tandem_here(folder, "batch", *RANGE, "--json"))
    tandem_here(folder, "apply")
    tandem_here(folder, "materialize", *RANGE)
    return made


@pytest.fixture
def repo(folder: Path) -> Iterator[Repo]:
    """The repository, loaded in this process; its modules are forgotten afterwards."""
    with forgotten(folder):
        yield load_repo(folder)


def us(moment: datetime) -> int:
    return micros(moment - EPOCH)


def logged(repo: Repo, group: FeatureGroup) -> list[dict[str, Any]]:
    """The group's events before END, read by nothing of the product."""
    out = []
    for file in sorted((repo.data / group.source.files).rglob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            event = json.loads(line)
            at = us(datetime.fromisoformat(event[group.source.event_time]))
            if at < us(END):
                out.append({**event, group.source.event_time: at})
    return out


def offline(repo: Repo, group: FeatureGroup, run: str) -> pa.Table:
    """The rows that a batch run made, by keys and time."""
    files = sorted(str(p) for p in (repo.data / "offline" / group.name / f"run={run}").rglob("*.parquet"))
    order = [(name, "ascending") for name in (*group.entity.keys, "event_timestamp")]
    return ds.dataset(files, format="parquet").to_table().sort_by(order)


def test_rows_equal_the_oracles(repo: Repo, manifest: dict[str, Any]) -> None:
    assert manifest["rejected"] == {}
    assert set(repo.groups) == {"card_activity", "terminal_activity", "card_reports"}
    for group in repo.groups.values():
        table = offline(repo, group, manifest["id"])
        want = oracle_rows(logged(repo, group), group, us(START), us(END))
        assert len(want) > 100
        got = table.select(group.row_schema.names).cast(group.row_schema).combine_chunks().to_batches()[0]
        assert_same_rows(got, want, group)
        assert set(table.column("tandem_fingerprint").to_pylist()) == {manifest["fingerprints"][group.name]}


def test_the_repository_covers_types_that_the_flights_do_not(repo: Repo) -> None:
    kinds = {f.dtype for s in repo.sources.values() for f in s.fields}
    assert kinds == {"string", "int64", "float64", "bool"}
    assert [f.dtype for f in repo.groups["card_activity"].key_fields] == ["int64"]
    assert [f.dtype for f in repo.groups["terminal_activity"].key_fields] == ["string", "int64"]
    assert repo.groups["card_reports"].preprocessing_fn is None
    assert repo.data == repo.path / "data"


def test_stock_feast_reads_the_newest_rows_online(repo: Repo, manifest: dict[str, Any]) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo.path))
    store.config.online_store.as_of = END  # ttl is measured from there
    for group in repo.groups.values():
        names = [*(f.name for f in group.features), "tandem_revision", "tandem_fingerprint"]
        newest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in to_dicts(offline(repo, group, manifest["id"])):
            if us(END) - (group.ttl_us or 0) <= row["event_timestamp"] < us(END):
                newest[tuple(row[k] for k in group.entity.keys)] = row
        asked = [dict(zip(group.entity.keys, key, strict=True)) for key in list(newest)[:50]]
        assert len(asked) > 10
        found = store.get_online_features([f"{group.name}:{n}" for n in names], asked).to_dict()
        for i, row in enumerate(list(newest.values())[:50]):
            assert {n: bits(found[n][i]) for n in names} == {n: bits(row[n]) for n in names}, (group.name, asked[i])
    unknown = store.get_online_features(["card_activity:count_1h"], [{"card_id": 7}]).to_dict()
    assert unknown == {"card_id": [7], "count_1h": [None]}


def test_the_same_range_again_is_the_same_run(folder: Path, manifest: dict[str, Any]) -> None:
    before = {p: p.read_bytes() for p in sorted((folder / "data" / "events").rglob("*.jsonl"))}
    tandem_here(folder, "events", *RANGE)
    assert {p: p.read_bytes() for p in before} == before
    assert json.loads(tandem_here(folder, "batch", *RANGE, "--json"))["id"] == manifest["id"]


def test_labels_are_what_was_reported_within_a_day(repo: Repo, manifest: dict[str, Any]) -> None:
    table = repo.attribute("labels:asked")(repo.data, START, END)
    reported = {e["payment_id"]: e["reported_at"] for e in map(json.loads, _lines(repo.data / "events" / "fraud_reports"))}
    paid = {e["payment_id"]: e["paid_at"] for e in map(json.loads, _lines(repo.data / "events" / "payments"))}
    want = {p: t for p, t in paid.items() if START <= datetime.fromisoformat(t) < END}
    assert set(table.column("payment_id").to_pylist()) == set(want)
    for payment, fraud in zip(table.column("payment_id").to_pylist(), table.column("fraud").to_pylist(), strict=True):
        until = datetime.fromisoformat(paid[payment]) + timedelta(days=1)
        assert fraud == float(payment in reported and datetime.fromisoformat(reported[payment]) <= until)
    assert 0.02 < np.mean(table.column("fraud").to_numpy()) < 0.25


def _lines(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.jsonl")):
        yield from file.read_text("utf-8").splitlines()


def test_style_of_what_is_written(folder: Path) -> None:
    """What a user gets passes the linter that this project sets for itself."""
    for command in (["check"], ["format", "--check"]):
        config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        config += ["--config", 'lint.isort.known-third-party = ["tandem"]']  # there it is a package like any other
        files = sorted(str(p) for p in folder.glob("*.py"))
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *config, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    wrote = scaffold(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in wrote)
    (folder / "features.py").write_text("mine")
    with pytest.raises(ConfigError, match="mine is not empty; choose a new or empty folder"):
        scaffold(folder)
    assert (folder / "features.py").read_text() == "mine"
    with pytest.raises(ConfigError, match="is a file; choose a new or empty folder"):
        scaffold(folder / "features.py")
    failed = tandem("init", str(folder), fails=True)
    assert failed.stdout == "" and len(failed.stderr.splitlines()) == 1 and "is not empty" in failed.stderr


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert len(scaffold(tmp_path)) == len(list(tmp_path.iterdir())) > 5


def test_two_repositories_in_one_process_have_modules_of_their_own(tmp_path: Path, folder: Path, repo: Repo) -> None:
    other = tmp_path / "other"
    scaffold(other)
    text = (other / "features.py").read_text()
    (other / "features.py").write_text(text.replace("minutes(15)", "minutes(30)").replace('name="card_reports"', 'name="card_claims"'))
    (other / "preprocessing.py").write_text("def terminal_activity(inputs):\n    return {}\n")
    second = load_repo(other)
    assert set(second.groups) == {"card_activity", "terminal_activity", "card_claims"}
    assert second.groups["terminal_activity"].hop == timedelta(minutes=30) and second.data == other / "data"
    assert Path(load_module(second.path, "features").__file__ or "") == other / "features.py"
    # The function of each repository, whichever was loaded last; what a module imports comes from its own repository too.
    for _ in range(2):
        function = second.preprocessing_fn(second.groups["terminal_activity"])
        assert function is not None and function({}) == {}
        assert second.attribute("labels:payments") is load_module(other, "features").payments
        assert repo.attribute("labels:payments") is load_module(folder, "features").payments
        assert Path(repo.attribute("labels:asked").__code__.co_filename) == folder / "labels.py"
        assert Path(second.attribute("labels:asked").__code__.co_filename) == other / "labels.py"
    third = load_repo(folder)
    assert set(third.groups) == set(repo.groups) and third.groups["terminal_activity"].hop == timedelta(minutes=15)


def test_differences_are_seen(repo: Repo, manifest: dict[str, Any]) -> None:
    """The comparison above is no empty one: one changed event changes rows."""
    group = repo.groups["card_activity"]
    events = logged(repo, group)
    want = oracle_rows(events, group, us(START), us(END))
    events[-1] = {**events[-1], "amount": events[-1]["amount"] + 0.01}
    assert differences(want, oracle_rows(events, group, us(START), us(END)))
