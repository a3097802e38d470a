"""What differs between two runs: nothing between equal ones, causes before effects, definitions down to the aggregate."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lineage.diff import CAUSES, EFFECTS, diff, duration, render, to_dict
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Mean, hours, minutes

SOURCE: dict[str, Any] = {
    "name": "departures", "fields": [Field("origin", "string", required=True), Field("delay", "float64", min=-10, max=30)],
    "event_time": "t", "tie_breaker": "origin", "out_of_orderness": minutes(1), "allowed_lateness": hours(1),
}  # fmt: skip


def group(hop=5, aggregates=None, **source) -> dict:
    made = FeatureGroup(
        name="traffic", source=EventSource(**{**SOURCE, **source}), entity=Entity("origin"), hop=minutes(hop), ttl=hours(6),
        aggregates=aggregates or [Count(over=[hours(1), hours(3)]), Mean("delay", over=hours(1))],
    )  # fmt: skip
    return json.loads(json.dumps(made.canonical()))


def manifest(**changes) -> dict:
    base = {
        "id": "train-1",
        "kind": "train",
        "status": "complete",
        "range": ["2013-01-01T00:00:00+00:00", "2013-02-01T00:00:00+00:00"],
        "inputs": {
            "events/departures": [
                {"file": "events/departures/date=2013-01-01/a.parquet", "size": 10, "sha256": "1" * 64},
                {"file": "events/departures/date=2013-01-02/a.parquet", "size": 20, "sha256": "2" * 64},
            ],
            "offline/traffic": [{"file": "offline/traffic/run=batch-1/x.parquet", "size": 5, "sha256": "3" * 64}],
        },
        "definitions": {"traffic": group()},
        "code": {"sha256": "a" * 64, "commit": "c" * 40, "dirty": False, "files": {"pipelines/batch/steps.py": "1", "repo/model.py": "2"}},
        "lock": "d" * 64,
        "versions": {"tensorflow": "2.16.2"},
        "settings": {"batch": {"shards": 2}},
        "seeds": {"seed": 1},
        "params": {"epochs": 3},
        "fingerprints": {"traffic": "f" * 64},
        "counts": {"rows/train": 100},
        "metrics": {"test/auc": 0.75},
        "outputs": [{"name": "model/saved_model.pb", "path": "x", "bytes": 5, "sha256": "4" * 64}],
    }
    return {**copy.deepcopy(base), **changes}


def lines(**changes) -> list[str]:
    return [f"{d.section}: {d}" for d in diff(manifest(), manifest(**changes))]


def test_equal_runs_do_not_differ():
    assert diff(manifest(), manifest(id="other", created="later")) == []
    assert render(manifest(), manifest())[0].startswith("nothing differs")
    assert to_dict(manifest(), manifest(id="b")) == {"a": "train-1", "b": "b", "equal": True, "causes": [], "effects": []}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (group(hop=15), "definitions: group traffic, hop: 5min -> 15min"),
        (
            group(aggregates=[Count(over=[hours(1), hours(6)]), Mean("delay", over=hours(1))]),
            "definitions: group traffic: aggregate count, over: 1h, 3h -> 1h, 6h",
        ),
        (group(aggregates=[Count(over=[hours(1), hours(3)])]), "definitions: group traffic: aggregate delay_mean is there only in A"),
        (
            group(fields=[SOURCE["fields"][0], Field("delay", "float64", min=-10, max=60)]),
            "definitions: group traffic: source departures: field delay: ['delay', 'float64', False, -10, 30, None]"
            " -> ['delay', 'float64', False, -10, 60, None]",
        ),
        (group(out_of_orderness=minutes(2)), "definitions: group traffic: source departures, delay: 1min -> 2min"),
    ],
)
def test_a_changed_definition_is_named(changed, line):
    assert lines(definitions={"traffic": changed}) == [line]


def test_groups_of_one_run_alone():
    assert lines(definitions={"other": group()}) == [
        "definitions: group traffic is defined only in A",
        "definitions: group other is defined only in B",
    ]


def test_inputs_are_told_file_by_file_when_altered_and_by_number_when_new():
    inputs = manifest()["inputs"]
    inputs["events/departures"][0] |= {"sha256": "9" * 64, "size": 11}
    day = "events/departures/date=2013-01-0"
    inputs["events/departures"] += [{"file": f"{day}{n}/a.parquet", "size": 1, "sha256": "5"} for n in (3, 4)]
    inputs["offline/traffic"] = [{"file": "offline/traffic/run=batch-2/x.parquet", "size": 5, "sha256": "8" * 64}]
    assert lines(inputs=inputs, range=["2013-01-01T00:00:00+00:00", "2013-03-01T00:00:00+00:00"]) == [
        "inputs: range: 2013-01-01 to 2013-02-01 -> 2013-01-01 to 2013-03-01",
        f"inputs: events/departures: {day}1/a.parquet was altered: 10 bytes {'1' * 12} -> 11 bytes {'9' * 12}",
        f"inputs: events/departures: 2 files only in B: {day}3/a.parquet to {day}4/a.parquet",
        "inputs: offline/traffic: rows of other batch runs: batch-1 -> batch-2",
    ]


def test_code_is_told_by_file_the_repository_first():
    code = {
        "sha256": "b" * 64,
        "commit": "c" * 40,
        "dirty": True,
        "files": {"pipelines/batch/steps.py": "9", "repo/model.py": "8", "repo/x.py": "1"},
    }
    assert lines(code=code) == [
        "code: repo/model.py changed",
        "code: repo/x.py there only in B",
        "code: pipelines/batch/steps.py changed",
        f"code: commit: {'c' * 12} -> {'c' * 12} with changes not committed",
    ]


def test_causes_stand_before_effects_in_the_stated_order():
    other = manifest(
        inputs={}, definitions={"traffic": group(hop=15)}, code={"sha256": "b" * 64}, versions={"tensorflow": "2.17"},
        settings={"batch": {"shards": 4}}, seeds={"seed": 2}, params={}, fingerprints={"traffic": "e" * 64},
        counts={"rows/train": 90}, metrics={"test/auc": 0.7}, outputs=[], status="failed",
    )  # fmt: skip
    sections = list(dict.fromkeys(d.section for d in diff(manifest(), other)))
    assert sections == [s for s in (*CAUSES, *EFFECTS) if s != "machine"]
    told = render(manifest(), other)
    assert [x for x in told if not x.startswith(" ")] == sections
    assert "  test/auc: 0.75 -> 0.7" in told and "  epochs: 3 only in A" in told and "  batch.shards: 2 -> 4" in told


def test_an_effect_without_a_cause_is_said_so():
    assert "no recorded cause differs" in render(manifest(), manifest(metrics={"test/auc": 0.7}))[-1]


def test_long_lists_are_cut_for_people_alone():
    other = manifest(metrics={f"m{i}": float(i) for i in range(40)})
    assert "  and 29 more (--json has them all)" in render(manifest(), other)
    assert len(to_dict(manifest(), other)["effects"]) == 41


@pytest.mark.parametrize(
    ("us", "text"), [(300_000_000, "5min"), (129_600_000_000, "36h"), (86_400_000_000, "1d"), (1, "1us"), (0, "0us"), (1500, "1500us")]
)
def test_durations(us, text):
    assert duration(us) == text


leaves = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text("ab", max_size=3))
flat = st.dictionaries(st.text("xyz", min_size=1, max_size=2), leaves, max_size=4)
manifests = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("settings", "seeds", "params", "versions", "counts", "metrics", "fingerprints"), flat)
)


@given(manifests, manifests)
def test_equality_symmetry_and_order(a, b):
    order = {name: i for i, name in enumerate((*CAUSES, *EFFECTS))}
    there, back = diff(a, b), diff(b, a)
    assert diff(a, a) == [] == diff(b, b)
    assert [order[d.section] for d in there] == sorted(order[d.section] for d in there)
    assert {(d.section, d.what, repr(d.before), repr(d.after)) for d in there} == {
        (d.section, d.what, repr(d.after), repr(d.before)) for d in back
    }
    same = all((a.get(n) or {}) == (b.get(n) or {}) for n in {*a, *b})
    assert (there == []) == same
