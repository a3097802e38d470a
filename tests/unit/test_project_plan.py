"""``tandem plan``: what it says is recomputed is what ``tandem batch`` would make anew, by the keys of runs; and it writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipelines.lake import runs
from pipelines.planning.plan_text import lines, summary, to_dict
from tests.examples import examples
from tests.unit.plan_world import END, FEATURES, FILES, ROOT, START, Shop, make_shop, recomputed, signs
from transforms.errors import ConfigError


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """One that has no run yet."""
    return make_shop(tmp_path)


@pytest.fixture
def made(shop: Shop) -> Shop:
    """One whose newest run of all groups is applied and loaded."""
    shop.batch()
    shop.apply()
    shop.load()
    return shop


def test_a_repository_without_any_run_is_all_new(shop: Shop) -> None:
    plan = shop.plan()
    assert set(signs(plan).values()) == {"+"} and recomputed(plan) == set(shop.repo().groups)
    assert plan.commands == (
        "tandem batch --start 2024-05-01 --end 2024-05-03",
        "tandem apply",
        "tandem materialize --start 2024-05-01 --end 2024-05-03T00:01",
    )
    (batch,) = plan.batches
    assert {n: len(r.files) for n, r in batch.reads.items()} == {"orders": 2, "visits": 2}
    assert summary(plan) == "Plan: 3 to add, 0 to change, 0 to remove; 3 groups recomputed."


def test_files_of_which_no_folder_tells_the_day_are_there_all_the_same(shop: Shop) -> None:
    """It said that there were no event files yet, where their folders had other names than ``date=``."""
    for folder in sorted(shop.data.glob("events/*/date=*")):
        folder.rename(folder.with_name(folder.name.replace("date=", "dt=")))
    plan = shop.plan()
    assert plan.commands[0] == "tandem batch --start START --end END"
    told = "\n".join(lines(plan))
    assert "reads orders: 2 event files, " in told and "reads visits: 2 event files, " in told and "no event files yet" not in told
    assert "give --start and --end" in told
    shutil.rmtree(shop.data / "events")
    assert "there are no event files yet" in "\n".join(lines(shop.plan()))


def test_what_was_run_and_applied_is_no_change(made: Shop) -> None:
    plan = made.plan()
    assert set(signs(plan).values()) == {"="} and not plan.changes and plan.commands == () and plan.batches == ()
    assert list(lines(plan))[-1] == "No changes: rows, graphs and the registry match the definitions."
    assert made.batch()[1] is False


EDITS: dict[str, tuple[str, str, str, set[str], set[str]]] = {
    # name: (file, old, new, the groups recomputed, those for which only something that is free differs)
    "nothing": ("features.py", "orders", "orders", set(), set()),
    "a comment": ("scaling.py", "def shops", "# scaled\ndef shops", set(), set()),
    "a comment in the definitions": ("features.py", "shop_orders = ", "# of shops\nshop_orders = ", set(), set()),
    "a label of a unit": ("features.py", '"float64", max=100', '"float64", unit="eur", max=100', set(), set()),
    "a description": ("features.py", 'name="page_visits"', 'name="page_visits", description="pages"', set(), set()),
    "a topic": ("features.py", 'files="events/orders"', 'files="events/orders", topic="orders"', set(), set()),
    "a ttl": ("features.py", "ttl=None", "ttl=hours(72)", set(), set()),
    "a wider domain": ("features.py", '["app", "web"]', '["app", "web", "tv"]', set(), {"shop_orders", "channel_orders"}),
    "a wider bound": ("features.py", "max=100", "max=200", set(), {"shop_orders", "channel_orders"}),
    "a longer lateness": (
        "features.py", "allowed_lateness=hours(1)", "allowed_lateness=hours(2)", set(), {"shop_orders", "channel_orders"},
    ),
    "a narrower domain": ("features.py", '["app", "web"]', '["web"]', {"shop_orders", "channel_orders"}, set()),
    "a unit of time": (
        "features.py", 'event_time="seen"', 'event_time=Field("seen", "timestamp", parse=Epoch("ms"))', {"page_visits"}, set(),
    ),
    "a path": ("features.py", 'Field("seconds", "float64")', 'Field("seconds", "float64", path="t.s")', {"page_visits"}, set()),
    "a window": ("features.py", "Count(over=[hours(1), hours(24)])", "Count(over=[hours(1), days(7)])", {"shop_orders"}, set()),
    "a removed feature": ("features.py", ', Max("seconds", over=hours(1))', "", {"page_visits"}, set()),
    "a filter": ("features.py", 'Sum("amount", over', 'Sum("amount", where=col("amount") > 5, over', {"channel_orders"}, set()),
    "a filter of the source": (
        "features.py", 'tie_breaker="id", files', 'tie_breaker="id", where=col("seconds") > 0, files', {"page_visits"}, set(),
    ),
    "a function's code": ("scaling.py", "x['count_1h']", "x['count_24h']", {"shop_orders"}, set()),
    "what a function imports": ("helpers.py", "0.5", "0.6", {"shop_orders"}, set()),
    "another function": ("features.py", "scaling:shops", "reading:pages", {"shop_orders"}, set()),
    "no function": ("features.py", ', preprocessing_fn="reading:pages"', "", {"page_visits"}, set()),
    "a dialect": ("features.py", 'files="events/visits"', 'files="events/visits", file_format=Csv(delimiter=";")', {"page_visits"}, set()),
    "a model": ("model.py", "32", "64", set(), set()),
    "a setting": ("tandem.yaml", "definitions: features\n", "definitions: features\nbatch: {shards: 3}\n", {"all"}, set()),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_said_of_an_edit_is_what_the_keys_of_runs_say(made: Shop, edit: str) -> None:
    """The commands of the plan make anew exactly the groups that it names, and then nothing is left to do; of the others a run of each
    group is found again, but where what is free differs (a wider contract: other events are taken, though none need be)."""
    names = set(made.repo().groups)
    for name in names:  # a run of each group alone, too
        made.batch(name)
    made.apply()
    made.load()
    assert not made.plan().changes
    file, old, new, wanted, free = EDITS[edit]
    wanted = names if wanted == {"all"} else wanted
    made.replace(file, old, new)
    plan = made.plan()
    assert recomputed(plan) == wanted
    assert {g.name for g in plan.groups if g.judged is not None and g.judged.free and not g.recomputed} == free
    assert {n for n in names if made.batch(n)[1]} == wanted | free
    assert bool(wanted) == any(c.startswith("tandem batch") for c in plan.commands)


@pytest.mark.parametrize("edit", EDITS)
def test_nothing_is_left_to_do_when_the_commands_were_run(made: Shop, edit: str) -> None:
    file, old, new, _, _ = EDITS[edit]
    made.replace(file, old, new)
    plan = made.plan()
    assert made.follow(plan) == recomputed(plan)
    after = made.plan()
    assert not after.changes and not recomputed(after), after.commands


@settings(max_examples=examples(12), suppress_health_check=[HealthCheck.too_slow], phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.sets(st.sampled_from(sorted(EDITS)), max_size=4), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_random_edits(tmp_path_factory: pytest.TempPathFactory, versions: list[set[str]], follow: bool, alone: bool) -> None:
    """Whatever was defined, run and taken back before (the last of ``versions`` is what is planned): the plan's groups are those that its
    commands make anew, and then it is empty. Those before were followed, or run pinned or of one group without being applied."""
    made = make_shop(tmp_path_factory.mktemp("shop"))
    made.batch()
    made.apply()
    made.load()
    for edits in versions:
        files = dict(FILES)
        for name in sorted(edits):
            file, old, new, _, _ = EDITS[name]
            files[file] = files[file].replace(old, new, 1)
        made.write(files)
        if edits is versions[-1]:
            break
        if follow:
            made.follow(made.plan())
        else:
            made.batch(*(["page_visits"] if alone else []))
    plan = made.plan()
    assert made.follow(plan) == recomputed(plan), plan.commands
    after = made.plan()
    assert not after.changes and not recomputed(after), (plan.commands, after.commands)
    shutil.rmtree(made.path)


def test_a_definition_that_is_taken_back(made: Shop) -> None:
    """The newest run counts, so one is made of what is defined again; its graph is the one that it had, which is known before."""
    first = made.applied("shop_orders")
    made.replace("features.py", "hours(24)])", "days(7)])")
    made.follow(made.plan())
    assert not made.plan().changes and made.applied("shop_orders") != first
    made.replace("features.py", "days(7)])", "hours(24)])")
    plan = made.plan()
    assert recomputed(plan) == {"shop_orders"} and "its newest run has another definition" in "\n".join(lines(plan))
    (shop_orders,) = [g for g in plan.groups if g.name == "shop_orders"]
    assert shop_orders.fingerprint == first
    assert made.follow(plan) == recomputed(plan) and made.applied("shop_orders") == first and not made.plan().changes


def test_a_pinned_run_does_not_hide_that_the_function_changed(made: Shop) -> None:
    """It records the code as it is by then, and goes on with the graph that was learnt before."""
    made.replace("scaling.py", "count_1h", "count_24h")
    made.batch(pinned=True)
    assert recomputed(made.plan()) == {"shop_orders"}


def test_reasons_are_told_in_words(made: Shop) -> None:
    made.replace("scaling.py", "count_1h", "count_24h")
    made.replace("features.py", '["app", "web"]', '["app", "web", "tv"]')
    text = "\n".join(lines(made.plan()))
    assert "scaling.py changed: preprocessing_fn scaling:shops may compute something else" in text
    assert "field 'channel' takes 'tv': nothing is recomputed" in text
    assert "7 events of batch-" in text and "not_in_domain channel" in text
    made.replace("features.py", "scaling:shops", "reading:pages")
    assert "preprocessing_fn: scaling:shops -> reading:pages: its graph is analyzed again" in "\n".join(lines(made.plan()))


def test_rows_are_exact_where_no_row_comes_or_goes_and_about_where_some_may(made: Shop) -> None:
    def rows(old: str, new: str) -> tuple[int | None, bool]:
        before = (made.folder / "features.py").read_text()
        made.replace("features.py", old, new)
        (found,) = [g.rows for g in made.plan().groups if g.recomputed]
        made.write({"features.py": before})
        assert found is not None
        return found.number, found.exact

    assert rows('Max("seconds", over=hours(1))', 'Mean("seconds", over=hours(1))') == (100, True)
    assert rows('Max("seconds", over=hours(1))', 'Max("seconds", over=[hours(1), hours(3)])') == (150, False)
    assert rows('Field("seconds", "float64")', 'Field("seconds", "float64", path="s")') == (100, False)
    assert rows('page_visits", source=visits, entity=Entity("page")', 'page_visits", source=visits, entity=Entity("id")') == (None, False)


def test_event_files_that_differ_ask_for_rows_and_no_graph_of_their_own(made: Shop) -> None:
    """A new file, one of another size, one that was only touched, one of the same size with other bytes, and one that is gone."""
    day = made.data / "events/orders/date=2024-05-02"
    os.utime(day / "all.jsonl")
    assert not made.plan().changes  # touched, and the same
    (day / "more.jsonl").write_text("{}\n")
    plan = made.plan()
    assert recomputed(plan) == {"shop_orders", "channel_orders"} and all(b.pinned for b in plan.batches)
    assert plan.commands[0].endswith("--group shop_orders --group channel_orders --pinned")
    assert "event files of orders: 1 new (events/orders/date=2024-05-02/more.jsonl)" in "\n".join(lines(plan))
    assert plan.batches[0].events["orders"].exact is False and plan.batches[0].reads["orders"].bytes > 0
    assert made.follow(plan) == recomputed(plan) and not made.plan().changes
    text = (day / "all.jsonl").read_text()
    (day / "all.jsonl").write_text(text.replace("orders", "ordres"))
    assert "1 altered" in "\n".join(lines(made.plan()))
    (day / "all.jsonl").unlink()
    assert "1 gone" in "\n".join(lines(made.plan()))


def test_a_range_that_has_no_rows_yet_is_asked_for(made: Shop) -> None:
    wider = (START, END + timedelta(days=1))
    plan = made.plan(asked=wider)
    assert recomputed(plan) == set(made.repo().groups) and plan.batches[0].range == wider
    assert "rows of 2024-05-01 to 2024-05-04: there are those of 2024-05-01 to 2024-05-03" in "\n".join(lines(plan))
    assert not made.plan(asked=(START, END)).changes


def test_groups_that_were_added_and_removed(made: Shop) -> None:
    text = FILES["features.py"]
    a, b = text.index("page_visits = "), len(text)
    new = text[text.index("channel_orders = ") : a].replace("channel_orders", "new_orders")
    applied = runs.begin(made.data, "apply", {}, datetime.now(UTC))
    applied.save(status="complete", fingerprints={n: made.applied(n) for n in made.repo().groups})
    made.write({"features.py": text[:a] + new + text[b:]})
    plan = made.plan()
    assert signs(plan) == {"shop_orders": "=", "channel_orders": "=", "new_orders": "+", "page_visits": "-"}
    assert recomputed(plan) == {"new_orders"} and plan.commands[0].endswith("--group new_orders")
    assert summary(plan).startswith("Plan: 1 to add, 0 to change, 1 to remove; 1 group recomputed")
    assert "page_visits: no longer defined; its view is dropped" in "\n".join(lines(plan))
    assert signs(made.plan("shop_orders")) == {"shop_orders": "="}
    with pytest.raises(ConfigError, match="there is no group 'pages'"):
        made.plan("pages")


def push(made: Shop, version: int, fingerprints: Mapping[str, str], model: str = "late") -> None:
    folder = made.data / "models" / model / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text("")
    (folder / "tandem.json").write_text(json.dumps({"fingerprints": dict(fingerprints)}))


def test_what_a_plan_of_one_group_says_to_run_can_be_run(made: Shop) -> None:
    """Apply takes all groups: one that it would refuse has its batch run planned too, and nothing else has."""
    made.replace("features.py", "hours(24)])", "days(7)])")
    made.replace("features.py", 'Sum("amount", over=hours(24))', 'Sum("amount", over=hours(48))')
    plan = made.plan("shop_orders")
    assert plan.also == ("channel_orders",) and recomputed(plan) == {"shop_orders", "channel_orders"}
    assert next(lines(plan)) == "apply takes all groups, and would refuse channel_orders as it is now: planned here too"
    assert to_dict(plan)["also"] == ["channel_orders"]
    assert made.follow(plan) == recomputed(plan) and not made.plan().changes
    made.replace("features.py", "days(7)])", "hours(24)])")
    assert made.plan("page_visits").commands == (), "it has nothing to apply"
    assert made.plan("shop_orders").also == (), "the others can be applied"


def test_a_group_that_others_have_to_be_made_for_may_be_new(made: Shop) -> None:
    made.replace("features.py", "hours(24)])", "days(7)])")
    made.write({"features.py": (made.folder / "features.py").read_text() + NEW_GROUP})
    plan = made.plan("shop_orders")
    assert plan.also == ("new_visits",) and made.follow(plan) == {"shop_orders", "new_visits"} and not made.plan().changes


NEW_GROUP = """
new_visits = FeatureGroup(
    name="new_visits", source=visits, entity=Entity("id"), hop=minutes(5), ttl=None, aggregates=[Count(over=hours(1))],
)
"""


def test_a_feature_service_is_planned_with_the_groups_that_it_reads(made: Shop) -> None:
    made.write({"features.py": (made.folder / "features.py").read_text() + SERVICES, "feature_store.yaml": STORE})

    def planned(*groups: str) -> set[str]:
        return {c.name for c in made.plan(*groups).feast or () if c.kind == "feature service"}

    assert (planned(), planned("shop_orders"), planned("channel_orders")) == ({"both", "pages"}, {"both"}, set())


SERVICES = """
from feast import FeatureService
from tandem.pipelines.feature_store.views import feast_views
views = feast_views(__name__)
both = FeatureService(name="both", features=[view_shop_orders, view_page_visits])
pages = FeatureService(name="pages", features=[view_page_visits])
"""
STORE = """
project: shop
provider: local
registry: ../data/registry.db
offline_store: {type: tandem.serving.offline_store.AsofOfflineStore}
online_store: {type: sqlite, path: ../data/online.db}
"""


def test_models_and_training_sets_of_graphs_that_go(made: Shop) -> None:
    now = {n: made.applied(n) for n in made.repo().groups}
    push(made, 1, now)
    push(made, 2, {"page_visits": now["page_visits"]})
    push(made, 3, {"page_visits": "0" * 64})  # it does not fit already
    history = [{"n": 1, "action": "register", "champion": 1, "version": 1}]
    (made.data / "models/late/ALIASES.json").write_text(json.dumps({"champion": 1, "challenger": 2, "history": history}))
    for name, prints in (("one", now), ("two", {"page_visits": now["page_visits"]}), ("old", {"shop_orders": "1" * 64})):
        (made.data / "training" / name).mkdir(parents=True)
        (made.data / "training" / name / "manifest.json").write_text(json.dumps({"fingerprints": prints}))
    for name, said in (("newer", {"format": 9, "fingerprints": now}), ("odd", {"fingerprints": 7}), ("odder", {"splits": {"train": 1}})):
        (made.data / "training" / name).mkdir(parents=True)
        (made.data / "training" / name / "manifest.json").write_text(json.dumps(said))
    made.replace("scaling.py", "count_1h", "count_24h")
    plan = made.plan()
    assert [(m.version.version, m.sure, m.in_use) for m in plan.models] == [(1, False, True)]
    assert summary(plan).endswith("1 model in use perhaps no longer fits.")
    made.replace("features.py", "hours(24)])", "days(7)])")
    plan = made.plan()
    assert [(m.version.version, m.sure, m.in_use) for m in plan.models] == [(1, True, True)]
    assert [s.id for s in plan.training_sets] == ["one"]
    assert plan.commands[-2:] == ("tandem train --model late", "tandem promote --model late")
    text = "\n".join(lines(plan))
    assert "! late version 1, champion: in use! no longer fits: it was trained on another graph of shop_orders" in text
    made.replace("features.py", ', Max("seconds", over=hours(1))', "")
    assert {m.version.version for m in made.plan().models} == {1, 2}


def test_a_stream_goes_on_from_one_run_of_all_groups(made: Shop) -> None:
    repo = made.repo()
    checkpoints = made.data / "stream/main/checkpoints"
    checkpoints.mkdir(parents=True)
    hashes = {n: g.definition_hash() for n, g in repo.groups.items()}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    point = {"fingerprints": hashes, "partitions": {}, "output_watermark": {}, "shards": 1}
    (checkpoints / "shard-0000.jsonl").write_text(json.dumps({"format": 2, "boot": boot, "saved": "", "checkpoint": point}) + "\n")
    assert not made.plan().changes
    made.replace("features.py", '["app", "web"]', '["app", "web", "tv"]')
    assert "uses the wider contract after a restart" in "\n".join(lines(made.plan()))
    made.replace("scaling.py", "count_1h", "count_24h")
    plan = made.plan()
    assert recomputed(plan) == set(repo.groups) and "--group" not in plan.commands[0]
    assert plan.commands[-1:] == ("tandem stream",) and "it resumes from its checkpoint" in "\n".join(lines(plan))
    made.replace("features.py", "hours(24)])", "days(7)])")
    plan = made.plan()
    assert plan.commands[-1] == "tandem stream --reset --from-run latest"
    assert to_dict(plan)["streams"][0]["checkpoint_fits"] is False and "was redefined since" in to_dict(plan)["streams"][0]["why"]


def everything(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder, with its time of change and content."""
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "")
        for p in sorted(folder.rglob("*"))
    }


def tandem(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", "-m", "pipelines.cli", *words], cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_nothing_and_says_by_its_exit_code_whether_there_are_changes(made: Shop) -> None:
    shutil.rmtree(made.folder / "__pycache__", ignore_errors=True)
    before = everything(made.path)
    words = ("plan", "--repo", str(made.folder))
    done = tandem(*words, "--detailed-exitcode")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("match the definitions.\n")
    made.replace("features.py", "hours(24)])", "days(7)])")
    before = {**before, "repo/features.py": everything(made.path)["repo/features.py"]}
    done = tandem(*words, "--detailed-exitcode", "--json")
    assert done.returncode == 2 and everything(made.path) == {**before, "repo": everything(made.path)["repo"]}
    found = json.loads(done.stdout)
    assert found["format"] == 1 and found["summary"]["recomputed"] == ["shop_orders"] and found["summary"]["change"] == 1
    assert found["groups"][0]["changes"][0]["what"] == "aggregate count: window 7d added"
    done = tandem(*words)
    assert f"    tandem apply --repo {made.folder}\n" in done.stdout, "a command can be run as it stands"


def test_what_cannot_be_planned_is_one_line(shop: Shop) -> None:
    shutil.rmtree(shop.data)
    plan = shop.plan()
    assert set(signs(plan).values()) == {"+"} and not shop.data.exists()
    assert plan.commands[0] == "tandem batch --start START --end END"
    shop.write({"features.py": FEATURES + "\nbroken = FeatureGroup(\n"})
    done = tandem("plan", "--repo", str(shop.folder), "--detailed-exitcode")
    assert done.returncode == 1 and done.stdout == "" and re.fullmatch(r"error: repo/features.py.*SyntaxError.*\n", done.stderr)


def test_what_it_imports_is_light() -> None:
    """Neither Beam nor TensorFlow nor Kafka: it is asked before each change."""
    code = "import json, sys, pipelines.planning.plan_text; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert not {"apache_beam", "tensorflow", "tensorflow_transform", "kafka", "duckdb", "tfx"} & set(loaded)
