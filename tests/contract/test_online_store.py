"""Both online stores are held to the contract that ships (DESIGN 3.7); and what is theirs alone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String

from serving.online_store.base import Covered, OrderedOnlineStore, row_wins
from serving.online_store.encoding import encode_column
from serving.online_store.redis_calls import Transactions
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from tandem.testing.online_store import NOW, Bench, OnlineStoreContract, key, view
from tandem.testing.store_bench import race_in_threads
from tests.redis_server import RedisServer, free_port, redis_server
from transforms.errors import FingerprintError, RightsError, StoreError

SQLITE = "serving.online_store.sqlite.OrderedSqliteOnlineStore"
REDIS = "serving.online_store.redis.OrderedRedisOnlineStore"
T = NOW - timedelta(hours=1)


class TestSqlite(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"type": SQLITE, "path": str(tmp_path / "online.db")}

    @pytest.fixture
    def stock_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"type": "sqlite", "path": str(tmp_path / "online.db")}

    @pytest.fixture
    def unusable_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        (tmp_path / "file").write_text("")
        return {"type": SQLITE, "path": str(tmp_path / "file" / "online.db")}


def test_a_store_that_writes_order_and_row_apart_loses_the_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the races in the contract: without a transaction around both, one is found at once."""

    @contextlib.contextmanager
    def apart(store: OrderedSqliteOnlineStore, config: Any) -> Iterator[sqlite3.Connection]:
        yield store._get_conn(config)

    monkeypatch.setattr(OrderedSqliteOnlineStore, "_transaction", apart)
    bench = Bench.open({"type": SQLITE, "path": str(tmp_path / "online.db")}, view())
    wrong = race_in_threads(bench)
    assert wrong and isinstance(wrong[0], AssertionError), wrong


MARKS = [
    "test_the_first_who_claims_a_project_has_it_until_another_takes_it",
    "test_whoever_had_the_rows_before_writes_none_of_them",
    "test_no_row_of_before_comes_after_a_take_over",
    "test_a_mark_is_taken_away_by_whom_it_names_alone",
    "test_of_many_who_claim_at_once_one_has_it",
]


@pytest.mark.parametrize("name", MARKS)
def test_a_store_that_keeps_no_marks_may_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for method in ("claim", "disclaim", "owner"):
        monkeypatch.setattr(OrderedSqliteOnlineStore, method, getattr(OrderedOnlineStore, method))
    given = {"type": SQLITE, "path": str(tmp_path / "online.db")}
    more = [given] if name == MARKS[0] else []
    with pytest.raises(pytest.skip.Exception, match="keeps no mark"):
        getattr(TestSqlite(), name)(Bench.open(given, view()), *more)


def test_a_store_that_keeps_marks_and_does_not_look_at_them_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrderedSqliteOnlineStore, "_check_owner", lambda *given: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        TestSqlite().test_no_row_of_before_comes_after_a_take_over(
            Bench.open({"type": SQLITE, "path": str(tmp_path / "online.db")}, view())
        )


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, redis: RedisServer) -> Mapping[str, Any]:
        return {"type": REDIS, "connection_string": redis.connection_string}

    @pytest.fixture
    def stock_settings(self, redis: RedisServer) -> Mapping[str, Any]:
        return {"type": "redis", "connection_string": redis.connection_string}

    @pytest.fixture
    def unusable_settings(self) -> Mapping[str, Any]:
        return {"type": REDIS, "connection_string": f"127.0.0.1:{free_port()}"}


class TestRedisInTransactions(TestRedis):
    """The same, of batches that are not small: those are compared by one script and written by a transaction."""

    @pytest.fixture(autouse=True)
    def all_in_transactions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("serving.online_store.redis._FEW", 0)


@pytest.mark.parametrize(
    ("row", "stored", "applied", "covered", "upto", "wins"),
    [
        ((1, 0, "a", 0), None, "b", None, None, True),
        ((2, 0, "a", 0), (1, 9, "b", 0), "b", None, None, True),
        ((1, 2, "a", 0), (1, 1, "b", 0), "b", None, None, True),
        # rows of the applied graph replace rows of any other (FAULTS 1c; it was: only at equality)
        ((1, 1, "a", 0), (1, 2, "b", 0), "a", None, None, True),
        ((1, 1, "a", 0), (9, 2, "b", 0), "a", None, None, True),
        ((1, 1, "a", 0), (1, 1, "b", 0), None, None, None, False),
        ((1, 1, "a", 0), (1, 1, "a", 0), "a", None, None, False),
        # what a materialization covers it replaces, whatever revision or time that has, and nothing beyond
        ((1, 1, "a", 5), (1, 2, "a", 0), "a", None, 3, True),
        ((1, 1, "a", 5), (3, 2, "a", 4), "a", None, 3, True),
        ((1, 1, "a", 5), (4, 2, "a", 0), "a", None, 3, False),
        ((1, 1, "a", 5), (1, 2, "a", 4), "a", None, None, True),
        ((1, 1, "a", 5), (2, 1, "a", 4), "a", None, None, False),
        ((1, 1, "a", 5), (1, 2, "a", 5), "a", None, 3, False),
        # and keeps others from taking it back
        ((3, 9, "a", 0), (1, 1, "a", 5), "a", Covered(5, 3), None, False),
        ((3, 9, "a", 0), None, "a", Covered(5, 3), None, False),
        ((4, 1, "a", 0), (1, 1, "a", 5), "a", Covered(5, 3), None, True),
        ((3, 9, "a", 5), None, "a", Covered(5, 3), None, True),
    ],
)
def test_the_rule_in_python(row: Any, stored: Any, applied: str | None, covered: Covered | None, upto: int | None, wins: bool) -> None:
    assert row_wins(row, stored, applied, covered, upto) is wins


def test_redis_that_is_not_there_or_goes_away_is_one_clear_error() -> None:
    gone = Bench.open({"type": REDIS, "connection_string": f"127.0.0.1:{free_port()},password=secret"}, view())
    with pytest.raises(StoreError, match=r"redis 127\.0\.0\.1:\d+: .*start Redis there") as e:
        gone.write(("EWR", T, 1, 1.0))
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        bench.write(("EWR", T, 1, 1.0))
        server.kill()
        with pytest.raises(StoreError, match="start Redis there"):
            bench.write(("EWR", T, 2, 1.0))
        with pytest.raises(StoreError, match="start Redis there"):
            bench.x()


def test_redis_that_forgot_the_script_is_told_again() -> None:
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        bench.write(("EWR", T, 1, 1.0))
        store: Any = bench.store
        store._client.script_flush()
        assert bench.write(*((f"A{i}", T, 1, 2.0) for i in range(1100))).written == 1100


def test_redis_an_order_of_an_older_version_or_without_its_row() -> None:
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        bench.write(("EWR", T, 5, 1.0))
        client, name = server.client, view().name
        (key,) = client.scan_iter(b"*EWR*")
        us, revision, fingerprint, stamp = client.hget(key, f"_tandem:{name}").split(b" ")
        assert (int(revision), stamp) == (5, b"0")
        client.hset(key, f"_tandem:{name}", b"%b %b %b" % (us, revision, fingerprint))  # before there were stamps
        assert [bench.write(("EWR", T, n, 2.0)).written for n in (4, 5, 6)] == [0, 0, 1]
        client.hdel(key, f"_ts:{name}")  # stock Feast deleted the row, whose fields it knows
        assert [bench.write(("EWR", T, n, 3.0)).written for n in (1, 1)] == [1, 0]
        assert bench.x() == 3.0


def test_redis_that_forgets_the_script_in_the_middle_is_given_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.online_store import redis_link

    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        real, forgotten = redis_link._executed, 0

        def executed(connection: Any, count: int) -> bool:
            nonlocal forgotten
            done = real(connection, count)
            if forgotten < 3:
                forgotten += 1
                server.client.script_flush()
            return done

        monkeypatch.setattr(redis_link, "_executed", executed)
        assert bench.write(*((f"A{i}", T, 1, 2.0) for i in range(1100))).written == 1100
        assert forgotten == 3


@pytest.mark.parametrize("count", [1, 200])
def test_redis_whose_user_may_not_is_told_what_it_needs(count: int) -> None:
    with redis_server() as server:
        server.client.acl_setuser(
            "tandem", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-watch", "-evalsha"], keys=["*"]
        )
        bench = Bench.open({"type": REDIS, "connection_string": f"{server.connection_string},username=tandem,password=pw"}, view())
        with pytest.raises(RightsError, match="let its user run the commands") as refused:
            bench.write(*((f"A{i}", T, 1, 2.0) for i in range(count)))
        assert "\n" not in str(refused.value)


def test_redis_whose_user_may_touch_the_keys_of_0_1_alone_has_a_mark_too() -> None:
    """It had a key of its own once, and who was let to the others alone waited for a store that was there."""
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": f"{server.connection_string},username=tandem,password=pw"}, view())
        project = bench.config.project
        server.client.acl_setuser(
            "tandem",
            enabled=True,
            passwords=["+pw"],
            categories=["+@all"],
            keys=[*(f"tandem:{kind}:{project}" for kind in ("applied", "covered", "marks")), f"*{project}"],
        )
        bench.store.writer = "one"
        assert bench.store.claim(bench.config, "one") == bench.store.owner(bench.config) == "one"
        assert bench.write(*((f"A{i}", T, 1, 2.0) for i in range(200))).written == 200
        other = Bench.open({"type": REDIS, "connection_string": f"{server.connection_string},username=tandem,password=no"}, view())
        with pytest.raises(RightsError, match="correct its user and password"):
            other.store.claim(other.config, "one")


@pytest.mark.parametrize("count", [1, 200])
def test_redis_that_is_full_or_a_replica_is_called_that(count: int) -> None:
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        more = [(f"A{i}", T, 2, 2.0) for i in range(count - 1)]
        bench.write(("EWR", T, 1, 1.0))
        store: Any = bench.store
        client = store._client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="it is full: raise its maxmemory"):
            bench.write(("EWR", T, 2, 2.0), *more)
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreError, match="it is a replica: promote it"):
            bench.write(("EWR", T, 2, 2.0), *more)
        client.replicaof("NO", "ONE")
        assert bench.write(("EWR", T, 2, 2.0), *more).written == count


def test_redis_rows_that_others_change_between_the_comparison_and_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they had come before: none is overwritten by an older one, and the rest of their chunk is written all the same."""
    with redis_server() as server:
        bench = Bench.open({"type": REDIS, "connection_string": server.connection_string}, view())
        rows, made = [(f"K{i:03d}", T, 5, 5.0) for i in range(350)], Transactions.write
        between: list[Callable[[], Any]] = []

        def write(self: Transactions, number: int, losing: Any) -> Any:
            if number == 1 and between:
                between.pop()()
            return made(self, number, losing)

        monkeypatch.setattr(Transactions, "write", write)
        between.append(lambda: bench.write(("K100", T, 9, 9.0), ("K199", T, 4, 4.0), ("K200", T, 9, 9.0)))
        assert bench.write(*rows).written == 348  # those of K100 and K200 lose, whenever the others came
        assert not between
        assert [bench.x(f"K{i}") for i in (100, 101, 199, 200, 201, 349)] == [9.0, 5.0, 5.0, 9.0, 5.0, 5.0]
        between.append(lambda: bench.store.apply_fingerprint(bench.config, view().name, "another"))
        with pytest.raises(FingerprintError, match="another"):
            bench.write(*((name, T, 7, 7.0) for name, *_ in rows))
        assert not between
        assert {bench.x(f"K{i}") for i in range(101, 200)} == {5.0}


def test_redis_holds_the_same_whichever_way_rows_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of one length and of many, none, and longer than any header that is at hand; with a time to live."""
    table = view(features=[Field(name=n, dtype=t) for n, t in (("x", Float64), ("s", String), ("n", Int64), ("one", Int64))])
    values = {
        "x": [None if i % 7 == 0 else i / 3 for i in range(9000)],
        "s": ["é" * (i % 5 if i % 1000 else 900) for i in range(9000)],
        "n": [i**4 for i in range(9000)],
        "one": [1] * 9000,
    }
    rows = pa.RecordBatch.from_pydict(
        {"origin": [f"K{i % 8000}" for i in range(9000)], "event_timestamp": [T + timedelta(seconds=i % 3) for i in range(9000)], **values}
    )
    held = []
    for few in (0, 10_000):
        monkeypatch.setattr("serving.online_store.redis._FEW", few)
        with redis_server() as server:
            bench = Bench.open({"type": REDIS, "connection_string": server.connection_string, "key_ttl_seconds": 1000}, table)
            for some in (rows, rows.slice(500, 3000)):
                bench.store.write_rows(bench.config, bench.table, some)
            keys = list(server.client.scan_iter(b"*origin*", count=5000))
            held.append({key.removesuffix(bench.config.project.encode()): server.client.hgetall(key) for key in keys})
            assert all(0 < server.client.ttl(key) <= 1000 for key in keys[:50])
            (n,) = bench.store.read_rows(bench.config, bench.table, [key(origin="K7999")], ["n"]).values["n"]
            assert n.int64_val == 7999**4
    assert len(held[0]) == 8000
    assert held[0] == held[1]


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"give a path that can be written in feature_store\.yaml"):
        Bench.open({"type": SQLITE, "path": str(tmp_path / "file" / "online.db")}, view())


def test_a_full_disk_is_called_that_and_what_was_written_stays(tmp_path: Path) -> None:
    """SQLite goes back by itself then: a second ROLLBACK must not hide why."""
    bench = Bench.open({"type": SQLITE, "path": str(tmp_path / "online.db")}, view())
    bench.write(("EWR", T, 1, 1.0))
    store: Any = bench.store
    store._get_conn(bench.config).execute("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(StoreError, match="database or disk is full"):
        bench.write(*((f"A{i}", T, 1, 2.0) for i in range(1100)))
    store._get_conn(bench.config).execute("PRAGMA max_page_count = 100000")
    assert bench.write(*((f"A{i}", T, 1, 2.0) for i in range(1100))).written == 1100


@pytest.mark.parametrize(
    ("kind", "slot", "values"),
    [
        (pa.float64(), "double_val", [0.0, -0.0, None, 1e308, float("inf"), 0.1]),
        (pa.float32(), "float_val", [0.0, None, -1.5, float("-inf")]),
        (pa.int64(), "int64_val", [0, -1, None, 2**63 - 1, -(2**63), 5, 5]),
        (pa.string(), "string_val", ["", None, "é", "x" * 300]),
        (pa.bool_(), "bool_val", [True, None, False]),
    ],
)
def test_the_fast_encoding_is_that_of_protobuf(kind: pa.DataType, slot: str, values: list[Any]) -> None:
    expected = [(Value() if v is None else Value(**{slot: v})).SerializeToString() for v in values]
    whole = pa.array([None, *values], kind).slice(1)
    assert encode_column(whole).to_pylist() == expected
    assert encode_column(pa.chunked_array([whole.slice(0, 2), whole.slice(2)])).to_pylist() == expected


def test_what_was_deleted_or_overwritten_is_in_no_file_of_sqlite(tmp_path: Path) -> None:
    """Issue 13, section 3: nor in free pages or the log beside it, also where who deleted it was killed before it could see to that."""
    bench = Bench.open({"type": SQLITE, "path": str(tmp_path / "o.db")}, view())
    names = [f"to-be-forgotten-{n}" for n in range(300)]
    bench.write(*((name, NOW, 1, 1.0) for name in names), ("JFK", NOW, 1, 2.0))
    bench.store.delete_keys(bench.config, bench.table, list(bench.store.stored_keys(bench.config, bench.table, b"to-be-forgotten")))
    again = Bench.open({"type": SQLITE, "path": str(tmp_path / "o.db")}, view())
    again.store.compact(again.config, [])
    assert b"to-be-forgotten" not in b"".join(p.read_bytes() for p in tmp_path.glob("o.db*"))
    assert bench.x("JFK") == 2.0


def test_a_log_that_somebody_reads_is_told(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    bench = Bench.open({"type": SQLITE, "path": str(path), "busy_timeout_seconds": 0.1}, view())
    bench.write(("JFK", NOW, 1, 2.0))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with pytest.raises(StoreError, match=r"somebody reads.*run the same again"):
        bench.store.compact(bench.config, [])
    reader.close()
    bench.store.compact(bench.config, [])
