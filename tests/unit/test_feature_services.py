"""Feature services in a repository's files: they stop nothing that makes features, and training says how they differ from the applied."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import FeatureService

from pipelines.demo.scaffold import scaffold
from pipelines.feature_store.feature_services import check_fields, check_services, defined_services, edited_since, unlike_the_registry
from pipelines.lake import layout, runs
from pipelines.lake.graphs import apply_graph
from pipelines.lake.value_code import meaning, value_files
from pipelines.project.repository import load_repo
from serving.feast_objects import feast_objects
from serving.projections import FeatureSet
from transforms.definitions import FINGERPRINT, Count, Entity, EventSource, FeatureGroup, Field, hours, minutes
from transforms.errors import DefinitionError

ORDERS = EventSource(
    name="orders",
    fields=[Field("order_id", "string", required=True), Field("city", "string", required=True)],
    event_time="at",
    tie_breaker="order_id",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    files="events/orders",
    topic="orders",
)


def group(preprocessing: str | None = "preprocessing:city_orders") -> FeatureGroup:
    return FeatureGroup(
        name="city_orders",
        source=ORDERS,
        entity=Entity("city"),
        hop=hours(1),
        ttl=hours(48),
        aggregates=[Count(over=hours(24))],
        preprocessing_fn=preprocessing,
    )


def view(*outputs: str, preprocessing: str | None = "preprocessing:city_orders") -> Any:
    schema = pa.schema([pa.field(name, pa.float32()) for name in outputs], metadata={FINGERPRINT: "f" * 64})
    return feast_objects([group(preprocessing)], "data", {"city_orders": schema} if outputs else None).views[0]


def test_an_output_may_be_named_before_its_graph_is_applied() -> None:
    """FAULTS 19: in a fresh repository, after a new output, after a renamed one; also under another name and with other keys."""
    for before in (view(), view("old_z")):
        uses = [before[["busy_z"]], before[["busy_z", "count_24h"]].with_name("a"), before.with_name("b")[["busy_z"]]]
        uses.append(before.with_join_key_map({"city": "from_city"}).with_name("c")[["busy_z"]])
        service = FeatureService(name="busy", features=uses)
        assert [p.name_to_use() for p in service.feature_view_projections] == ["city_orders", "a", "b", "c"]
        with pytest.raises(DefinitionError, match="'busy': view 'city_orders' has no feature 'busy_z'; it has count_24h"):
            check_services({"busy": service}, {"city_orders": before})
    after = view("busy_z")
    service = FeatureService(name="busy", features=[after[["busy_z"]]])
    check_services({"busy": service}, {"city_orders": after})
    assert not service.feature_view_projections[0].desired_features


def test_a_name_that_nothing_can_make_is_a_mistake_at_once() -> None:
    """A group without a preprocessing_fn has its aggregates alone."""
    with pytest.raises(ValueError, match="busy_z"):
        view(preprocessing=None)[["busy_z"]]


def test_a_fresh_repository_whose_service_names_an_output_is_loaded(tmp_path: Path) -> None:
    """FAULTS 19: what loads the definitions (events, batch, stream) needs no graph of them."""
    folder = tmp_path / "shop"
    scaffold(folder)
    features = folder / "features.py"
    features.write_text(
        features.read_text() + 'busy = FeatureService(name="busy", features=[view_card_activity[["busy_z", "count_1h"]]])\n'
    )
    repo = load_repo(folder)
    assert set(repo.groups) == {"card_activity", "terminal_activity", "card_reports"}
    service = defined_services(folder)["busy"]
    applied = FeatureSet.of(["card_activity:count_1h"])
    assert unlike_the_registry(service, applied) == (
        "feature service 'busy' in the files differs from the applied one; using the applied one (not applied yet: card_activity:busy_z);"
        " to train on the one in the files, run tandem batch, then tandem apply first"
    )


def test_a_service_that_differs_from_the_applied_one_is_told() -> None:
    """FAULTS 18: what was added, taken out, or found by other keys, and what to run."""
    made = view("busy_z")
    applied = FeatureSet.of_service(FeatureService(name="s", features=[made[["busy_z", "count_24h"]]]))

    def told(*features: Any) -> str:
        return unlike_the_registry(FeatureService(name="s", features=list(features)), applied)

    assert told(made[["busy_z", "count_24h"]]) == ""
    assert "taken out: city_orders:busy_z); to train on the one in the files, run tandem apply first" in told(made[["count_24h"]])
    assert "(another order)" in told(made[["count_24h", "busy_z"]])
    assert "other keys: city_orders" in told(made[["busy_z", "count_24h"]].with_join_key_map({"city": "from_city"}))
    assert "not applied yet: to:count_24h; taken out: city_orders:count_24h" in told(made[["busy_z"]], made[["count_24h"]].with_name("to"))
    applied = FeatureSet.of_service(FeatureService(name="s", features=[made[["count_24h", "busy_z"]]]))
    assert told(made) == ""  # Tandem's own columns are no features of a model


def test_what_was_edited_and_not_applied_is_told(tmp_path: Path) -> None:
    """FAULTS 18: also a group that the files define otherwise, and a function that was edited, under the same names: training used the
    applied ones without a word."""
    folder = tmp_path / "shop"
    scaffold(folder)
    repo = load_repo(folder)
    files = {name: meaning(path)[:16] for name, path in value_files(folder, folder).items() if name.startswith("repo/")}
    made = runs.begin(repo.data, "batch", {}, datetime(2024, 5, 1, tzinfo=UTC))
    made.save(status="complete", fingerprints=dict.fromkeys(repo.groups, "f" * 64), code={"value_files": files})
    for name, of in repo.groups.items():
        head = layout.graph(repo.data, name, "f" * 64) / layout.SPEC_FILE
        head.parent.mkdir(parents=True)
        head.write_text(json.dumps({"definition_hash": of.definition_hash()}))
        apply_graph(repo.data, name, "f" * 64)
    features, function = folder / "features.py", folder / "preprocessing.py"
    features.write_text(features.read_text() + "# a remark\nother = 1\n")
    function.write_text(function.read_text().replace('"""', '"""Well: ', 1))
    assert edited_since(folder, repo.data, repo.groups) == []
    function.write_text(function.read_text().replace('bucketize(inputs["amount_sum_24h"], 8)', 'bucketize(inputs["amount_sum_24h"], 9)'))
    assert edited_since(folder, repo.data, ["card_reports", "own"]) == []  # has no function
    assert edited_since(folder, repo.data, repo.groups) == [
        "the code was edited after the applied graphs were made (preprocessing.py), which are still used; to train on the current code, run"
        " tandem batch and tandem apply first"
    ]
    features.write_text(
        features.read_text().replace("Count(over=days(3)), Age(over=days(3))", 'Count(over=days(2), name="count"), Age(over=days(3))')
    )
    sys.modules.pop("features", None)  # each command is a process of its own
    assert edited_since(folder, repo.data, ["card_reports"]) == [
        "feature group 'card_reports' was redefined after its graph ffffffffffff was applied; run tandem batch, then tandem apply first;"
        " until then, the applied one is used"
    ]


def counts(name: str, *features: str, entity: str = "city") -> Any:
    made = FeatureGroup(
        name=name,
        source=ORDERS,
        entity=Entity(entity),
        hop=hours(1),
        ttl=hours(48),
        aggregates=[Count(over=hours(1), name=feature) for feature in features],
    )
    return feast_objects([made], "data").views[0]


def test_features_that_redis_cannot_tell_apart_are_refused() -> None:
    """FAULTS 16: 100 and 7 were read as 7 and 7."""
    check_fields([counts("v", "f37660", "f1"), counts("w", "f43618")])
    with pytest.raises(DefinitionError, match=r"features 'v:f37660_1h' and 'v:f43618_1h' have the same field in Redis .* rename one"):
        check_fields([counts("v", "f37660", "f43618")])


def test_two_views_of_an_entity_share_its_hash_in_redis() -> None:
    """FAULTS 16: Feast keeps all views of an entity in one hash, so names collide between them as well."""
    from feast.infra.online_stores.helpers import _mmh3

    seen: dict[bytes, str] = {}
    for i in range(200_000):
        name = f"f{i}"
        seen.setdefault(_mmh3(f"a:{name}_1h"), name)
        if (pair := seen.get(_mmh3(f"b:{name}_1h"))) is not None:
            with pytest.raises(DefinitionError, match="have the same field in Redis"):
                check_fields([counts("a", pair), counts("b", name)])
            check_fields([counts("a", pair), counts("b", name, entity="order_id")])
            return
    pytest.fail(f"no pair among {len(seen)} names; look among more")
