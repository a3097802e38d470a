"""The DynamoDB online store is held to the contract that ships; and what is its alone."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pytest
import yaml
from fastapi.testclient import TestClient
from feast import Field
from feast.infra.online_stores.helpers import compute_entity_id, get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String

from serving.app import create_app
from serving.online_store.base import ColumnRead, Covered
from serving.registry_place import feast_config
from tandem.testing import online_store, store_bench
from tandem.testing.online_store import NOW, US, Bench, OnlineStoreContract, at_us, key, view
from tandem.testing.store_bench import configuration
from tests.dynamodb_server import PAGE, REGION, DynamoServer, cancelled, dynamodb_server, refused
from tests.integration.serving_world import GOOD, make_repo, push, settings
from tests.redis_server import free_port
from transforms.errors import ConfigError, FingerprintError, OwnerError, RightsError, StoreError

pytest.importorskip("boto3")
pytest.importorskip("moto")

DYNAMODB = "serving.online_store.dynamodb.OrderedDynamoDBOnlineStore"
T = NOW - timedelta(hours=1)
COPIES = 16
TOO_LARGE = "Item size to update has exceeded it; .*larger than the 400 KB"
OPERATIONS = (
    *("PutItem", "BatchGetItem", "BatchWriteItem", "TransactWriteItems", "Scan"),
    *("DescribeContinuousBackups", "CreateTable", "DeleteTable", "DescribeTable"),
)


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[DynamoServer]:
    with dynamodb_server() as server, pytest.MonkeyPatch.context() as patched:
        if importlib.util.find_spec("aiobotocore") is None:
            for name in ("aiobotocore", "aiobotocore.config"):  # Feast imports it for reads of event loops, which nothing here does
                patched.setitem(sys.modules, name, MagicMock())
        yield server


@pytest.fixture
def bench(dynamodb: DynamoServer) -> Iterator[Bench]:
    """A store that gives up at the first refusal; no faults are left for the next one."""
    yield Bench.open({"type": DYNAMODB, **dynamodb.settings, "retry_seconds": 0}, view(), {"type": "dynamodb", **dynamodb.settings})
    for operation in OPERATIONS:
        dynamodb.faults(operation)


def patient(bench: Bench, **more: Any) -> Bench:
    """The same rows by a store that tries again for a minute, as another process would see them."""
    given = {**bench.config.online_store.model_dump(), "retry_seconds": 60, **more}
    config = configuration(bench.config.project, given)
    store: Any = get_online_store_from_config(config.online_store)
    store.clock = bench.store.clock
    return replace(bench, store=store, config=config)


def table_of(bench: Bench) -> str:
    return f"{bench.config.project}.{bench.table.name}"


def meanwhile(bench: Bench, do: Callable[[], Any]) -> None:
    """Do something at the moment at which the store has decided about rows, and has not written them."""
    waiting = [do]

    def before(**_: Any) -> None:
        if waiting:
            waiting.pop()()

    bench.x()  # which makes its client
    held: Any = bench.store.__dict__["_held"]
    held[1].client.meta.events.register("before-call.dynamodb.TransactWriteItems", before)


class TestDynamoDB(OnlineStoreContract):
    @pytest.fixture(autouse=True)
    def rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twice what finds out a store of two steps: the server is Python, and answers one after the other."""
        for module in (online_store, store_bench):
            monkeypatch.setattr(module, "ROUNDS", 24)

    @pytest.fixture
    def store_settings(self, dynamodb: DynamoServer) -> Mapping[str, Any]:
        return {"type": DYNAMODB, **dynamodb.settings, "retry_seconds": 120}

    @pytest.fixture
    def stock_settings(self, dynamodb: DynamoServer) -> Mapping[str, Any]:
        return {"type": "dynamodb", **dynamodb.settings}

    @pytest.fixture
    def unusable_settings(self, dynamodb: DynamoServer) -> Mapping[str, Any]:
        return {"type": DYNAMODB, "region": REGION, "endpoint_url": f"http://127.0.0.1:{free_port()}"}

    @pytest.fixture
    def bench(self, store_settings: Mapping[str, Any], stock_settings: Mapping[str, Any]) -> Bench:
        return Bench.open(store_settings, view(), stock_settings)


def test_an_item_is_feasts_with_ours_beside_it(bench: Bench, dynamodb: DynamoServer) -> None:
    bench.write(("EWR", T, 3, 1.5))
    found = dynamodb.client.get_item(
        TableName=table_of(bench), Key={"entity_id": {"S": compute_entity_id(key(origin="EWR"), entity_key_serialization_version=3)}}
    )["Item"]
    assert found["event_ts"] == {"S": str(T)}
    assert {name: Value.FromString(cell["B"]) for name, cell in found["values"]["M"].items()} == {
        "x": Value(double_val=1.5),
        "tandem_revision": Value(int64_val=3),
        "tandem_fingerprint": Value(string_val="new"),
    }
    assert set(found) == {"entity_id", "event_ts", "values", "tandem_order", "tandem_key", "tandem_packed"}


def test_a_writer_that_decided_before_an_apply_writes_nothing_after_it(bench: Bench) -> None:
    """What a conditional write of one item cannot hold: the graph that is applied is another item."""
    bench.store.apply_fingerprint(bench.config, "traffic", "old")
    other = patient(bench)
    bench = replace(patient(bench))
    meanwhile(bench, lambda: other.store.apply_fingerprint(other.config, "traffic", "new"))
    with pytest.raises(FingerprintError, match=r"'old'.*'new' is applied"):
        bench.write(("EWR", T, 3, 1.0), fingerprint="old")
    assert other.x() is None


def test_a_row_that_comes_between_is_judged_anew(bench: Bench) -> None:
    bench, other = patient(bench), patient(bench)
    meanwhile(bench, lambda: other.write(("EWR", T + US, 1, 2.0)))
    result = bench.write(("EWR", T, 1, 1.0), ("JFK", T, 1, 1.0))
    assert (result.written, result.stale) == (1, 1)
    assert (bench.x("EWR"), bench.x("JFK")) == (2.0, 1.0)


def test_what_is_covered_meanwhile_is_not_written(bench: Bench) -> None:
    bench, other = patient(bench), patient(bench)
    meanwhile(bench, lambda: other.materialize(Covered(10, at_us(T)), ("JFK", T, 1, 5.0)))
    assert bench.write(("EWR", T, 1, 1.0)).written == 0
    assert (bench.x("EWR"), bench.x("JFK")) == (None, 5.0)


@pytest.mark.parametrize("what", ["rows", "cover", "drop"])
def test_a_take_over_between_stops_the_writer_of_before(bench: Bench, what: str) -> None:
    bench, other = patient(bench), patient(bench)
    bench.write(("EWR", T, 1, 1.0))
    bench.store.writer = "one"
    assert bench.store.claim(bench.config, "one") == "one"
    meanwhile(bench, lambda: other.store.claim(other.config, "two /here", take=True))
    covered = Covered(9, at_us(T))
    do = {"rows": lambda: bench.write(("EWR", T + US, 1, 2.0)), "drop": lambda: bench.drop(0, covered)}
    with pytest.raises(OwnerError, match=r"from another data folder now \(/here\)"):
        do.get(what, lambda: bench.store.cover(bench.config, "traffic", covered))()
    assert bench.x() == 1.0 and bench.covered() is None


@pytest.mark.parametrize("puts", [0, 1, 15, 16, 30])
def test_an_apply_that_ends_anywhere_is_carried_out_by_who_comes_next(bench: Bench, dynamodb: DynamoServer, puts: int) -> None:
    """After it was decided: fifteen more copies are closed, and sixteen opened. A writer of the old graph meets a closed one in its turn,
    carries the change out and writes no more."""
    bench.store.apply_fingerprint(bench.config, "traffic", "old")
    bench.write(("EWR", T, 3, 1.0), fingerprint="old")
    dynamodb.faults("PutItem", *[None] * puts, *[refused("AccessDeniedException")] * (2 * COPIES - 1 - puts))
    with pytest.raises(RightsError):
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
    dynamodb.faults("PutItem")
    next_one = patient(bench)
    assert next_one.store.applied_fingerprint(next_one.config, "traffic") == "new"

    def refused_write(n: int) -> bool:
        try:
            next_one.write(("EWR", T + n * US, 4, 1.0), fingerprint="old")
        except FingerprintError:
            return True
        return False

    assert any(refused_write(n) for n in range(COPIES + 1))
    assert refused_write(COPIES + 1)
    assert next_one.write(("EWR", T, 3, 2.0), fingerprint="new").written == 1
    assert next_one.x() == 2.0
    next_one.store.apply_fingerprint(next_one.config, "traffic", "new")
    states = [item for item in dynamodb.client.scan(TableName=table_of(bench))["Items"] if "version" in item]
    assert len(states) == COPIES and len({item["version"]["N"] for item in states}) == 1
    assert {item["closed"]["BOOL"] for item in states} == {False}


def test_an_apply_that_is_refused_before_it_is_decided_changes_nothing(bench: Bench, dynamodb: DynamoServer) -> None:
    bench.store.apply_fingerprint(bench.config, "traffic", "old")
    dynamodb.faults("TransactWriteItems", refused("AccessDeniedException"))
    with pytest.raises(RightsError):
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
    assert bench.write(("EWR", T, 3, 1.0), fingerprint="old").written == 1


def test_conflicts_and_throttling_are_waited_for(bench: Bench, dynamodb: DynamoServer) -> None:
    calm = patient(bench)
    busy = [cancelled("None", "TransactionConflict"), cancelled("ThrottlingError", "None"), cancelled("ConditionalCheckFailed", "None")]
    dynamodb.faults("TransactWriteItems", *busy)
    assert calm.write(("EWR", T, 1, 1.0)).written == 1
    dynamodb.faults("PutItem", refused("TransactionConflictException"), refused("TransactionConflictException"))
    calm.store.apply_fingerprint(calm.config, "traffic", "new")
    keys = {"Keys": [{"entity_id": {"S": compute_entity_id(key(origin="EWR"), entity_key_serialization_version=3)}}]}
    half = {"status": 200, "Responses": {}, "UnprocessedKeys": {table_of(bench): keys}}
    dynamodb.faults("BatchGetItem", half, half)
    assert calm.x() == 1.0
    dynamodb.faults("BatchWriteItem", {"status": 200, "UnprocessedItems": {table_of(bench): [{"DeleteRequest": {"Key": keys["Keys"][0]}}]}})
    calm.store.delete_keys(calm.config, calm.table, [calm.store.entity_key(calm.config, key(origin="EWR"))])
    assert calm.x() is None


def each_operation(bench: Bench) -> dict[str, Callable[[], Any]]:
    """Of each operation of the service's a call that makes requests of it."""
    store, config, table = bench.store, bench.config, bench.table
    return {
        "BatchGetItem": lambda: bench.x(),
        "TransactWriteItems": lambda: bench.write(("EWR", T, 1, 1.0)),
        "PutItem": lambda: store.apply_fingerprint(config, "traffic", "new"),
        "Scan": lambda: list(store.stored_keys(config, table)),
        "BatchWriteItem": lambda: store.delete_keys(config, table, [store.entity_key(config, key(origin="EWR"))]),
        "DescribeContinuousBackups": lambda: store.compact(config, [table]),
        "DescribeTable": lambda: bench.of(view(name="another")),
        "CreateTable": lambda: bench.of(view(name="new")),
        "DeleteTable": lambda: store.update(config, [view(name="gone")], [], [], [], False),
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_is_asked_a_busy_service_is_asked_again(bench: Bench, dynamodb: DynamoServer, operation: str) -> None:
    bench = patient(bench, total_max_retry_attempts=1).of(view(name="gone"))
    do = each_operation(replace(bench, table=view()))[operation]
    busy = [
        refused("ProvisionedThroughputExceededException"),
        refused("ThrottlingException"),
        refused("RequestLimitExceeded"),
        {**refused("InternalServerError"), "status": 500},
        {**refused("ServiceUnavailable"), "status": 503},
    ]
    dynamodb.counts()
    dynamodb.faults(operation, *busy)
    do()
    assert dynamodb.counts()[operation] > len(busy)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_stays_busy_or_is_no_dynamodb_is_one_line(bench: Bench, dynamodb: DynamoServer, operation: str) -> None:
    do = each_operation(patient(bench, total_max_retry_attempts=1, retry_seconds=0))[operation]
    for answer, why in (
        (refused("ThrottlingException"), "raise the capacity of its tables"),
        ({**refused("InternalServerError"), "status": 500}, "it fails at the moment"),
        (PAGE, "what answers there is no DynamoDB; correct endpoint_url"),
    ):
        bench.of(view(name="gone"))
        dynamodb.faults(operation, answer)
        if operation == "DescribeContinuousBackups":
            assert "cannot be asked" in "".join(do())
            continue
        with pytest.raises(StoreError, match=why) as error:
            do()
        assert type(error.value) is StoreError and "\n" not in str(error.value)


def test_a_transaction_whose_answer_was_lost_is_not_done_twice(bench: Bench, dynamodb: DynamoServer) -> None:
    """Asked again it has the token of before, by which the service knows it."""
    bench, tokens = patient(bench, total_max_retry_attempts=1), []
    meanwhile(bench, lambda: None)
    events = bench.store.__dict__["_held"][1].client.meta.events
    events.register("provide-client-params.dynamodb.TransactWriteItems", lambda params, **_: tokens.append(params["ClientRequestToken"]))
    dynamodb.faults("TransactWriteItems", {**refused("InternalServerError"), "status": 500})
    assert bench.write(("EWR", T, 1, 1.0)).written == 1
    assert bench.write(("EWR", T, 2, 1.0)).written == 1
    assert tokens[0] == tokens[1] != tokens[2]


def test_the_pieces_of_a_read_have_one_deadline(bench: Bench, dynamodb: DynamoServer) -> None:
    """Three requests, of which each would be asked again for the time that a read may take."""
    bench = patient(bench, total_max_retry_attempts=1, max_pool_connections=1, retry_seconds=0.5)
    bench.x()  # which makes its client
    link: Any = bench.store.__dict__["_held"][1]
    ask: Callable[..., Any] = link.ask
    deadlines: list[float] = []

    def noted(*given: Any) -> Any:
        deadlines.append(given[-1])
        return ask(*given)

    link.ask = noted
    keys = [bench.store.entity_key(bench.config, key(origin=f"K{n}")) for n in range(300)]
    bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, ("x",))])
    assert len(deadlines) == 3 and len(set(deadlines)) == 1
    dynamodb.faults("BatchGetItem", *[refused("ThrottlingException")] * 1000)
    with pytest.raises(StoreError, match="raise the capacity"):
        bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, ("x",))])


def test_limits_of_a_request_hold_for_the_last_attempt_too(bench: Bench) -> None:
    settings = configuration("p", {"type": DYNAMODB, "region": REGION}).online_store
    settings.limit_waits(2.0)
    assert settings.retry_seconds + settings.connect_timeout + settings.read_timeout <= 2.0
    assert settings.total_max_retry_attempts == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("endpoint_url", "localhost:8000"),
        ("table_name_template", "{nope}"),
        ("table_name_template", "{table_name}"),
        ("table_name_template", "{project}"),
        ("table_name_template", "{project.x}.{table_name}"),
        ("table_name_template", "{project}.{table_name"),
        ("connect_timeout", 0),
        ("read_timeout", -1),
        ("max_pool_connections", 0),
        ("retry_seconds", -5),
        ("total_max_retry_attempts", -1),
    ],
)
def test_a_setting_that_cannot_be_is_refused_where_it_is_read(setting: str, value: Any, tmp_path: Path) -> None:
    given = {"project": "p", "registry": "r.db", "provider": "local", "online_store": {"type": DYNAMODB, "region": REGION, setting: value}}
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError, match=setting) as error:
        feast_config(tmp_path)
    assert "\n" not in str(error.value)


def test_transactions_at_once_check_all_copies_also_where_two_states_are_checked(bench: Bench) -> None:
    bench.store.writer = "one"
    assert bench.store.claim(bench.config, "one") == "one"
    checked: list[list[str]] = []

    def look(params: Mapping[str, Any], **_: Any) -> None:
        checked.append([a["ConditionCheck"]["Key"]["entity_id"]["S"] for a in params["TransactItems"] if "ConditionCheck" in a])

    held: Any = bench.store.__dict__["_held"]
    held[1].client.meta.events.register("provide-client-params.dynamodb.TransactWriteItems", look)
    for n in range(COPIES):
        assert bench.write(("EWR", T + n * US, 1, 1.0)).written == 1
    assert len(checked) == COPIES and {len(each) for each in checked} == {2}
    for state in range(2):
        assert len({each[state] for each in checked}) == COPIES


@pytest.mark.parametrize(
    ("operation", "answer", "why", "kind"),
    [
        ("TransactWriteItems", cancelled("None", "TransactionConflict"), "others write the same .*raise its capacity", StoreError),
        ("TransactWriteItems", refused("AccessDeniedException"), "grant its role that", RightsError),
        (
            "TransactWriteItems",
            cancelled("None", "ValidationError", ValidationError="Item size to update has exceeded\nit"),
            TOO_LARGE,
            StoreError,
        ),
        ("TransactWriteItems", cancelled("AccessDenied", AccessDenied="no kms:Decrypt"), "no kms:Decrypt; grant its role", RightsError),
        ("TransactWriteItems", refused("ValidationException", "aggregate size of the items exceeds 4 MB"), "see what it says", StoreError),
        ("BatchGetItem", refused("UnrecognizedClientException"), "correct its credentials", RightsError),
        ("BatchGetItem", refused("ExpiredTokenException"), "renew its credentials", RightsError),
        ("BatchGetItem", refused("ValidationException", "Item size has exceeded\nthe maximum"), "400 KB", StoreError),
    ],
)
def test_what_the_service_refuses_is_one_line(
    bench: Bench, dynamodb: DynamoServer, operation: str, answer: dict[str, Any], why: str, kind: type[StoreError]
) -> None:
    dynamodb.faults(operation, answer)
    with pytest.raises(StoreError, match=rf"online store dynamodb http://127\.0\.0\.1:\d+: .*({why})") as error:
        bench.write(("EWR", T, 1, 1.0))
    assert type(error.value) is kind and "\n" not in str(error.value)
    assert bench.x() is None


def test_a_table_that_is_not_there_says_what_makes_it(bench: Bench, dynamodb: DynamoServer) -> None:
    dynamodb.client.delete_table(TableName=table_of(bench))
    with pytest.raises(StoreError, match="run 'tandem apply', which makes the tables of a view"):
        bench.write(("EWR", T, 1, 1.0))
    assert bench.x() is None and bench.covered() is None


def test_without_credentials_it_says_where_they_come_from(dynamodb: DynamoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED"]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(RightsError, match="give credentials by AWS' own chain: environment, profile or role"):
        Bench.open({"type": DYNAMODB, **dynamodb.settings}, view())


def test_rows_of_stock_feast_cannot_be_found_by_a_part_of_their_key_and_that_is_said(bench: Bench) -> None:
    bench.write(("EWR", T, 1, 1.0))
    stock, config = bench.stock()
    stock.online_write_batch(config, bench.table, [(key(origin="JFK"), {"x": Value(double_val=7.0)}, T, None)], None)
    found: list[bytes] = []
    with pytest.raises(StoreError, match=r"1 rows of table 'p\d+\.traffic' were written by Feast's own store"):
        found.extend(bench.store.stored_keys(bench.config, bench.table))
    own = {name: bench.store.entity_key(bench.config, key(origin=name)) for name in ("EWR", "JFK")}
    bench.store.delete_keys(bench.config, bench.table, [own["JFK"]])
    assert list(bench.store.stored_keys(bench.config, bench.table)) == [own["EWR"]]


def test_a_write_is_two_requests_for_twenty_five_rows_and_a_read_one_for_a_hundred(bench: Bench, dynamodb: DynamoServer) -> None:
    other = bench.of(view(name="other"))
    dynamodb.counts()
    bench.write(*((f"K{n}", T, 1, 1.0) for n in range(60)))
    assert dynamodb.counts() == {"BatchGetItem": 3, "TransactWriteItems": 3}
    keys = [bench.store.entity_key(bench.config, key(origin=f"K{n}")) for n in range(60)]
    bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, ("x",)), ColumnRead(other.table, keys[:40], ("x",))])
    assert dynamodb.counts() == {"BatchGetItem": 1}
    bench.write(*((f"K{n}", T, 1, 1.0) for n in range(20)))
    assert dynamodb.counts() == {"BatchGetItem": 1}, "none of them wins"


def test_large_rows_are_fewer_per_transaction(dynamodb: DynamoServer) -> None:
    bench = Bench.open(
        {"type": DYNAMODB, **dynamodb.settings, "packed": False}, view(features=[Field(name="x", dtype=String)], name="large")
    )
    n = 14
    columns = {"origin": [f"K{i}" for i in range(n)], "x": ["y" * 380_000] * n, "tandem_revision": [1] * n, "tandem_fingerprint": ["f"] * n}
    rows = pa.table({**columns, "event_timestamp": pa.array([T] * n, pa.timestamp("us", tz="UTC"))})
    dynamodb.counts()
    assert bench.store.write_rows(bench.config, bench.table, rows).written == n
    assert dynamodb.counts()["TransactWriteItems"] == 2


@pytest.mark.parametrize("entry", ["rows", "feast"])
def test_a_row_that_no_item_holds_is_refused_alone_and_told(dynamodb: DynamoServer, caplog: pytest.LogCaptureFixture, entry: str) -> None:
    """Up to the size that an item may have every row is written; its packed copy is left out where it has no room."""
    settings = {"type": DYNAMODB, **dynamodb.settings}
    bench = Bench.open(settings, view(features=[Field(name="x", dtype=String)], name="large"))
    lengths = {"small": 10, "half": 220_000, "full": 400_000 - 600, "over": 400_000, "far": 900_000}
    if entry == "rows":
        n = len(lengths)
        columns = {"origin": list(lengths), "x": ["y" * length for length in lengths.values()], "tandem_revision": [1] * n}
        rows = pa.table(
            {**columns, "tandem_fingerprint": ["f" * 64] * n, "event_timestamp": pa.array([T] * n, pa.timestamp("us", tz="UTC"))}
        )
        result = bench.store.write_rows(bench.config, bench.table, rows)
        assert (result.written, result.stale, result.refused, result.too_large) == (3, 0, 0, 2)
    else:
        given: list[Any] = [(key(origin=k), {"x": Value(string_val="y" * length)}, T, None) for k, length in lengths.items()]
        bench.store.online_write_batch(bench.config, bench.table, given, None)
    assert "refused 2 of 5 rows that are larger than this online store takes" in caplog.text
    keys = [key(origin=k) for k in lengths]
    found = [values["x"].string_val if values else None for _, values in bench.store.online_read_stored(bench.config, bench.table, keys)]
    assert found == ["y" * 10, "y" * 220_000, "y" * (400_000 - 600), None, None]
    items = dynamodb.client.scan(TableName=table_of(bench))["Items"]
    assert sorted("tandem_packed" in item for item in items if "event_ts" in item) == [False, False, True]


def test_tables_that_a_template_makes_one_are_refused(dynamodb: DynamoServer, bench: Bench) -> None:
    given = {"type": DYNAMODB, **dynamodb.settings, "table_name_template": "{project}_{table_name}"}
    project = bench.config.project
    one, other = (
        replace(bench, config=configuration(p, given)).of(view(name=name))
        for p, name in ((f"{project}_eu", "orders"), (project, "eu_orders"))
    )
    one.store.apply_fingerprint(one.config, "orders", "new")
    one.write(("EWR", T, 1, 1.0))
    for refused_one in (
        lambda: other.store.apply_fingerprint(other.config, "eu_orders", "another"),
        lambda: other.write(("EWR", T, 2, 2.0)),
        lambda: other.store.cover(other.config, "eu_orders", Covered(1, 2)),
    ):
        with pytest.raises(StoreError, match=r"have the same table .*table_name_template"):
            refused_one()
    other.store.update(other.config, [other.table], [], [], [], False)
    assert one.x() == 1.0


@pytest.mark.parametrize("loss", ["gone", "made again", "an old copy"])
@pytest.mark.parametrize("place", ["view", "project"])
def test_a_marker_does_not_outlive_the_rows_of_any_table(bench: Bench, dynamodb: DynamoServer, loss: str, place: str) -> None:
    """Tables are lost and restored one by one. Who looks is another process, too; whatever was marked first, it is found once."""
    mark = bench.store.mark_generation
    bench.write(("EWR", T, 1, 1.0))
    assert mark(bench.config, "main/0", 4) and mark(bench.config, "main/0", 5, at_least=4)
    table = table_of(bench) if place == "view" else f"{bench.config.project}.tandem.state"
    old = dynamodb.client.scan(TableName=table)["Items"]
    assert mark(bench.config, "main/0", 6, at_least=5)
    dynamodb.client.delete_table(TableName=table)
    if loss != "gone":
        bench.store.update(bench.config, [], [bench.table], [], [], False)
    for item in old if loss == "an old copy" else []:
        dynamodb.client.put_item(TableName=table, Item=item)
    after = patient(bench)
    assert not after.store.mark_generation(after.config, "main/0", 7, at_least=6)
    assert not mark(bench.config, "main/0", 7, at_least=6), "nothing was kept"
    assert mark(bench.config, "main/0", 8) and mark(bench.config, "main/0", 9, at_least=8)
    assert after.store.mark_generation(after.config, "main/0", 10, at_least=9)


def test_a_view_that_is_written_for_the_first_time_is_not_taken_for_lost(bench: Bench) -> None:
    """Also where the marker is one of before there were copies of it."""
    mark = bench.store.mark_generation
    assert mark(bench.config, "main/0", 4)
    bench.write(("EWR", T, 1, 1.0))
    other = bench.of(view(name="other"))
    assert mark(bench.config, "main/0", 5, at_least=4)
    other.write(("EWR", T, 1, 1.0))
    assert mark(bench.config, "main/0", 6, at_least=5) and mark(bench.config, "main/0", 7, at_least=6)
    bench.store.update(bench.config, [other.table], [bench.table], [], [], False)
    assert not mark(bench.config, "main/0", 8, at_least=7)
    assert mark(bench.config, "main/0", 8) and mark(bench.config, "main/0", 9, at_least=8)


def test_an_erasure_tells_of_recovery_that_keeps_what_was_deleted(bench: Bench, dynamodb: DynamoServer) -> None:
    assert bench.store.compact(bench.config, [bench.table]) is None
    dynamodb.client.update_continuous_backups(
        TableName=table_of(bench), PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    (line,) = bench.store.compact(bench.config, [bench.table]) or ()
    assert "point-in-time recovery is on; it keeps what was deleted for up to 35 days" in line
    dynamodb.faults("DescribeContinuousBackups", refused("AccessDeniedException"))
    (line,) = bench.store.compact(bench.config, [bench.table]) or ()
    assert "cannot be asked" in line


def test_a_teardown_leaves_nothing(bench: Bench, dynamodb: DynamoServer) -> None:
    bench.store.claim(bench.config, "one")
    bench.store.teardown(bench.config, [bench.table], [])
    assert not [name for name in dynamodb.client.list_tables()["TableNames"] if name.startswith(f"{bench.config.project}.")]
    assert bench.store.owner(bench.config) is None


def test_a_server_answers_from_it_and_needs_no_more_than_to_read(dynamodb: DynamoServer, tmp_path: Path) -> None:
    make_repo(tmp_path, store=DYNAMODB, settings={"region": REGION, "endpoint_url": f"'{dynamodb.settings['endpoint_url']}'"})
    push(tmp_path, tmp_path, 1)
    dynamodb.counts()
    with TestClient(create_app(settings(tmp_path))) as client:
        assert client.get("/v2/health/ready").json()["ready"], client.get("/v2/health/ready").text
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 200, answer.text
    assert set(dynamodb.counts()) == {"BatchGetItem"}
