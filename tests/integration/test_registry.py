"""``tandem models | evaluate | promote | rollback``: by their commands, over real SavedModels and a real Feast join."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pipelines.cli.root import app
from pipelines.lake.runs import list_runs
from pipelines.monitoring.labels import LABELS
from pipelines.project.repository import Repo
from pipelines.promotion.evaluate import evaluate
from pipelines.promotion.promote import candidate_for, decide, promote
from pipelines.registry import register
from pipelines.registry.alias_file import MovedError, current
from serving.aliases import ALIASES_FILE
from serving.metrics import Metrics
from serving.request_log import LogLimits, RequestLog, RequestRecord
from tests.integration import registry_world, training_repo
from transforms.errors import TandemError

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
NOW = datetime(2024, 6, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


@dataclass
class World:
    repo: Repo
    sets: dict[int, Any]

    @property
    def folder(self) -> Path:
        return self.repo.data / "models" / "slow_parcels"

    def push(self, version: int, quality: str, days: int = training_repo.DAYS, **changes: Any) -> None:
        if days not in self.sets:
            self.sets[days] = registry_world.training_set(self.repo, days)
        register(self.repo, "slow_parcels", registry_world.push(self.repo, version, quality, self.sets[days], **changes))

    def tandem(self, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [args[0], "--repo", str(self.repo.path), *args[1:]])
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.tandem(*args, "--json", code=code).stdout)

    def aliases(self) -> tuple[int | None, int | None]:
        now = current(self.folder)
        return now.champion, now.challenger


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return registry_world.make(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def sets() -> dict[int, Any]:
    return {}


@pytest.fixture
def world(made: Repo, sets: dict[int, Any]) -> Iterator[World]:
    yield World(made, sets)
    for name in ("models", "runs", "graphs"):
        shutil.rmtree(made.data / name, ignore_errors=True)


def test_a_good_challenger_is_promoted_and_rolled_back(world: World) -> None:
    world.push(1, "good")
    world.push(2, "better")
    assert world.aliases() == (1, 2)
    told = world.json("promote", "--dry-run")
    assert told["outcome"] == "would be promoted" and world.aliases() == (1, 2)
    told = world.json("promote", "--reason", "spring")
    assert told["outcome"] == "promoted" and told["missed"] == [] and told["champion"] == 1 and world.aliases() == (2, None)
    assert "which version 1 or 2 was not trained on" in told["evaluation"]["how"]
    assert {(c["metric"], c["slice"], c["against"]) for c in told["checks"]} >= {
        ("auc", "", "bound"), ("auc", "", "champion"), ("auc", "size=l", "champion"), ("log_loss", "", "champion"),
    }  # fmt: skip
    entry = current(world.folder).history[-1]
    assert entry["action"] == "promote" and entry["reason"] == "spring" and entry["evaluation"] == told["run"] and "@" in entry["by"]
    assert world.json("promote", "--version", "2")["outcome"] == "already champion"
    assert "no challenger" in str(world.tandem("promote", code=1).exception)
    back = world.json("rollback", "--reason", "slower answers")
    assert (back["version"], back["before"]) == (1, 2) and world.aliases() == (1, None)
    assert current(world.folder).history[-1]["reason"] == "slower answers"
    assert "there is no previous one to roll back to" in str(world.tandem("rollback", code=1).exception)
    runs = [(r.kind, r.status) for r in list_runs(world.repo.data)]
    assert [k for k, _ in runs].count("promote") == 2 and [k for k, _ in runs].count("rollback") == 1
    assert {s for _, s in runs} == {"complete"}


def test_a_bad_challenger_is_refused_and_each_missed_threshold_is_named(world: World) -> None:
    world.push(1, "good")
    world.push(2, "bad")
    text = (world.folder / ALIASES_FILE).read_bytes()
    told = world.json("promote", code=3)
    assert told["outcome"] == "refused" and (world.folder / ALIASES_FILE).read_bytes() == text
    lines = "\n".join(told["missed"])
    for part in ("auc (", "must be at least 0.7500", "log_loss (", "the champion's is", "auc of size=s"):
        assert part in lines, lines
    assert "--force requires --reason" in str(world.tandem("promote", "--force", code=1).exception)
    assert "--force requires --reason" in str(world.tandem("promote", "--force", "--reason", " ", code=1).exception)
    told = world.json("promote", "--force", "--reason", "the boss wants it")
    assert told["outcome"] == "promoted" and told["forced"] and world.aliases() == (2, None)
    entry = current(world.folder).history[-1]
    assert entry["forced"] and entry["reason"] == "the boss wants it" and entry["missed"] == told["missed"] and entry["at"] and entry["by"]


def test_a_slice_that_got_worse_is_enough_and_a_tiny_one_is_not(world: World) -> None:
    world.push(1, "good")
    world.push(2, "bad for l")
    told = world.json("promote", code=3)
    assert any(line.startswith("auc of size=l") for line in told["missed"])
    assert not any("size=s" in line or "size=m" in line for line in told["missed"])
    judged = [c for c in told["checks"] if c["slice"]]
    assert all(c["rows"] >= 100 for c in judged if c["ok"] is not None)


def test_a_model_of_another_graph_is_refused(world: World) -> None:
    world.push(1, "good")
    world.push(2, "better")
    world.json("promote")
    graphs = world.repo.data / "graphs" / "depot_load"
    graphs.mkdir(parents=True)
    (graphs / "CURRENT").write_text("e" * 64)
    world.push(3, "better")
    told = world.json("promote", code=3)
    assert "was trained on graph ffffffffffff of 'depot_load', but eeeeeeeeeeee is applied" in told["missed"][0]
    assert "champion version 2 can no longer be served" in told["notes"][0]
    refused = world.json("rollback", code=3)
    assert "eeeeeeeeeeee is applied" in refused["refused"] and world.aliases() == (2, 3)
    states = {v["version"]: v["state"] for v in world.json("models")["models"][0]["versions"]}
    assert states == {1: "other graph of depot_load", 2: "other graph of depot_load", 3: "other graph of depot_load"}
    world.json("rollback", "--force", "--reason", "it goes back, too")
    assert world.aliases() == (1, 3) and current(world.folder).history[-1]["forced"]


def test_the_rows_are_those_that_neither_was_trained_on(world: World) -> None:
    """Version 2 was trained on more days: version 1's test split lies in its training, so the later rows alone count."""
    world.push(1, "good", days=12)
    world.push(2, "better", days=20)
    found = evaluate(world.repo, world.repo.attribute("labels:slow_parcels"), [1, 2])
    borders = {d: s.record.borders_us[1] for d, s in world.sets.items()}
    times = found.holdout.table.column("event_timestamp").to_pylist()
    assert min(t.timestamp() * 1e6 for t in times) >= borders[20] > borders[12]
    assert found.holdout.seen == {} and "version 1 or 2 was not trained on" in found.holdout.how
    told = world.json("evaluate", "--no-tfma", "--start", "2024-05-02", "--end", "2024-05-20")
    assert told["versions"]["1"]["seen_in_training"] > told["versions"]["2"]["seen_in_training"] - 10_000 > -10_000
    assert told["rows"] > found.holdout.table.num_rows and told["how"].startswith("requests asked from 2024-05-02")


def test_rolling_back_again_goes_further_back(world: World) -> None:
    for version in (1, 2, 3, 4):
        world.push(version, "good")
    for version in (2, 3):
        world.json("promote", "--version", str(version))
    assert world.aliases() == (3, 4)
    assert world.json("rollback")["version"] == 2 and world.json("rollback")["version"] == 1
    assert world.aliases() == (1, 4)
    world.json("promote", "--version", "3")
    assert "was never champion; former champions: 1" in str(world.tandem("rollback", "--to", "2", code=1).exception)
    world.json("promote", "--version", "2")
    assert world.json("rollback", "--to", "1")["version"] == 1 and world.aliases() == (1, 4)
    shutil.rmtree(world.folder / "1")
    world.json("promote", "--version", "4")
    assert "has no version 1" in world.json("rollback", code=3)["refused"]
    listed = world.json("models", "--model", "slow_parcels")["models"][0]
    assert {v["version"]: v["state"] for v in listed["versions"]}[1] == "withdrawn"
    assert "rollback" in world.tandem("models", "--history").stdout


def _race(repo: Path, version: int, ready: Any, out: Any) -> None:
    from pipelines.project.repository import load_repo

    loaded = load_repo(repo)
    model = loaded.attribute("labels:slow_parcels")
    decision = decide(loaded, model, candidate_for(loaded, model, version))
    ready.wait(120)
    try:
        promote(loaded, decision, NOW)
        out.put((version, "won"))
    except MovedError as e:
        out.put((version, str(e)))


def test_of_two_promotions_at_once_one_wins(world: World) -> None:
    for version in (1, 2, 3):
        world.push(version, "good")
    context = multiprocessing.get_context("spawn")
    ready, out = context.Barrier(2), context.Queue()
    other = context.Process(target=_race, args=(world.repo.path, 2, ready, out))
    other.start()
    _race(world.repo.path, 3, ready, out)
    found = dict(out.get(timeout=200) for _ in range(2))
    other.join(60)
    winner = next(v for v, what in found.items() if what == "won")
    assert world.aliases()[0] == winner
    loser = next(what for what in found.values() if what != "won")
    assert f"version {winner} became champion in the meantime" in loser
    assert [e["champion"] for e in current(world.folder).history] == [1, 1, 1, winner]


def test_a_damaged_aliases_file_is_told_and_mended_by_a_promotion(world: World) -> None:
    world.push(1, "good")
    world.push(2, "better")
    (world.folder / ALIASES_FILE).write_text("{")
    assert "is damaged" in world.json("models")["models"][0]["problem"]
    assert "is damaged" in str(world.tandem("promote", code=1).exception)
    assert "is damaged" in str(world.tandem("rollback", code=1).exception)
    assert world.json("promote", "--version", "1")["outcome"] == "promoted"
    assert world.aliases() == (1, None)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytes changed": (lambda f: _flip(f / "saved_model.pb"), "saved_model.pb is not the file that was pushed"),
    "file missing": (lambda f: (f / "variables" / "variables.index").unlink(), "variables/variables.index is missing"),
    "file added": (lambda f: (f / "assets" / "x").write_text("x"), "assets/x was not pushed with it"),
    "model missing": (lambda f: (f / "saved_model.pb").unlink(), "there is no saved_model.pb or model.onnx"),
}


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_version_becomes_champion_by_nothing(world: World, how: str) -> None:
    """Neither by promotion nor by rollback, nor by force: no server could load it. And a damaged champion holds no good version up."""
    for version in (1, 2, 3):
        world.push(version, "good")
    world.json("promote", "--version", "2")
    change, said = DAMAGE[how]
    for version in (1, 3):
        change(world.folder / str(version))
    force = ("--force", "--reason", "now")
    for words in ((), force):
        told = world.json("promote", "--version", "3", *words, code=3)
        assert len(told["missed"]) == 1 and f"version 3: {said}" in told["missed"][0] and not told["forced"]
        told = world.json("rollback", *words, code=3)
        assert f"version 1: {said}" in told["refused"]
    assert world.aliases() == (2, 3)
    assert "--force" not in world.tandem("rollback", code=3).output
    states = {v["version"]: v["state"] for v in world.json("models")["models"][0]["versions"]}
    assert states == {1: "damaged", 2: "fits", 3: "damaged"}
    change(world.folder / "2")
    world.push(4, "good")
    told = world.json("promote", "--version", "4")
    assert told["outcome"] == "promoted" and "champion version 2 can no longer be served" in told["notes"][0] and said in told["notes"][0]


def test_what_cannot_be_judged_is_refused_in_one_line(world: World) -> None:
    world.push(1, "good", training_set="gone")
    world.push(2, "good", training_set="gone")
    told = world.json("promote", code=3)
    assert "it cannot be evaluated: model 'slow_parcels': the training set of version 2, 1 no longer exists" in told["missed"][0]
    world.push(3, "good")
    told = world.json("promote", "--dry-run")
    assert "the training set of version 1 no longer exists" in told["notes"][0]
    assert "has no version 9" in str(world.tandem("promote", "--version", "9", code=1).exception)
    assert isinstance(world.tandem("promote", "--model", "nobody", code=1).exception, TandemError)
    assert "go together" in str(world.tandem("evaluate", "--start", "2024-05-02", code=1).exception)


def write_shadow(data: Path, n: int, seed: int = 3) -> tuple[Any, Any, Any]:
    """Predictions of versions 1 (served) and 2 (shadow) for n requests, as the server logs them; version 2 knows more."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n)
    served, shadow = np.clip(truth + rng.normal(0, 0.3, n), 0.01, 0.99), np.clip(truth + rng.normal(0, 0.05, n), 0.01, 0.99)
    metrics = Metrics()
    log = RequestLog(data / "requests" / "shadow", LogLimits(), metrics.shadow_log)
    for i in range(n):
        log.add(
            RequestRecord(
                request_id=f"r{i}", at_us=NOW_US + i, as_of_us=NOW_US + i, endpoint="predict", rows=1, columns={"size": ["sml"[i % 3]]},
                types={"size": pa.string()}, groups={}, model="slow_parcels", version=1, run="train-1", predictions=[served[i]],
                shadow_version=2, shadow_run="train-2", shadow_predictions=[shadow[i]],
            )
        )  # fmt: skip
    log.start()
    log.close()
    return truth, served, shadow


def test_compare_says_how_they_differ_and_who_was_right(world: World) -> None:
    world.push(1, "good")
    data = world.repo.data
    try:
        assert "no shadow predictions" in str(world.tandem("compare", code=1).exception)
        truth, served, shadow = write_shadow(data, 1200)
        told = world.json("compare", "--more-than", "0.1")
        assert (told["served"], told["shadow"], told["requests"]) == (1, 2, 1200)
        assert told["differences"]["share_differing"] == pytest.approx(float((np.abs(served - shadow) > 0.1).mean()))
        assert set(told["slices"]) == {"size=s", "size=m", "size=l"} and told["slices"]["size=l"]["rows"] == 400
        assert told["right"] is None and "no labels are in yet" in told["right_unknown"]
        assert "no labels are in yet" in world.tandem("compare").output
        other = str(world.tandem("compare", "--versions", "1,9", code=1).exception)
        assert "were not run on the same requests; there is 1 and 2 (1,200 rows)" in other
        assert "give two version numbers" in str(world.tandem("compare", "--versions", "1", code=1).exception)
        label = (np.random.default_rng(5).random(1000) < truth[:1000]).astype(float)
        stamps = pa.array(NOW_US + np.arange(1000)).cast(LABELS.field("tandem_at").type)
        names, rows = pa.array([f"r{i}" for i in range(1000)]), pa.array(np.zeros(1000, np.int32))
        columns = [names, rows, stamps, stamps, pa.array(label), stamps, stamps]
        (data / "labels" / "slow_parcels").mkdir(parents=True)
        pq.write_table(pa.Table.from_arrays(columns, schema=LABELS), data / "labels" / "slow_parcels" / "part-000000.parquet")
        told = world.json("compare")
        assert told["right"]["rows"] == 1000 and told["right"]["better"] == "shadow" and told["right_unknown"] is None
        assert told["right"]["shadow"]["auc"] > told["right"]["served"]["auc"] and told["right"]["intervals"]["auc"][0] > 0
        assert set(told["right"]["slices"]) == {"size=s", "size=m", "size=l"}
        text = world.tandem("compare").stdout
        assert "against labels" in text and "v2 shadow" in text
        assert "no shadow predictions" in str(world.tandem("compare", "--since", "2030-01-01", code=1).exception)
    finally:
        for name in ("requests", "labels"):
            shutil.rmtree(data / name, ignore_errors=True)


@pytest.mark.slow
def test_tfma_keeps_an_evaluation_that_can_be_looked_at(world: World) -> None:
    import tensorflow_model_analysis as tfma

    world.push(1, "good")
    told = world.json("evaluate", "--tfma")
    run = next(r for r in list_runs(world.repo.data) if r.id == told["run"])
    result = tfma.load_eval_result(str(world.repo.data / run.manifest["tfma"]["1"]))
    overall = dict(result.slicing_metrics)[()][""][""]
    assert overall["auc"]["doubleValue"] == pytest.approx(told["versions"]["1"]["auc"], abs=2e-3)
    assert overall["binary_crossentropy"]["doubleValue"] == pytest.approx(told["versions"]["1"]["log_loss"], abs=1e-4)
    assert (("size", "l"),) in dict(result.slicing_metrics)
    listed = world.json("models")["models"][0]["versions"][0]
    assert listed["scores"]["auc"] == told["versions"]["1"]["auc"] and listed["scores"]["from"] == told["run"]
