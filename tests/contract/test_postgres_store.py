"""The PostgreSQL online store is held to the contract that ships; and what is its alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore, RepoConfig
from feast.protos.feast.types.Value_pb2 import Value

from serving.online_store.base import ColumnRead
from serving.online_store.store_columns import PackedColumns
from tandem.testing.online_store import Bench, OnlineStoreContract, key, view
from tandem.testing.store_bench import MINUTE, configuration
from tests.contract.postgres_bench import POSTGRES, T, own_process, trigger_of_before
from tests.integration.offline_world import T0, Repo, row
from tests.postgres_server import PASSWORD, PostgresServer, postgres_server
from tests.redis_server import free_port
from transforms.errors import RightsError, StoreError


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


class TestPostgres(OnlineStoreContract):
    @pytest.fixture
    def store_settings(self, postgres: PostgresServer) -> Mapping[str, Any]:
        return {"type": POSTGRES, **postgres.settings}

    @pytest.fixture
    def stock_settings(self, postgres: PostgresServer) -> Mapping[str, Any]:
        return {"type": "postgres", **postgres.settings}

    @pytest.fixture
    def unusable_settings(self, postgres: PostgresServer) -> Mapping[str, Any]:
        return {"type": POSTGRES, **postgres.settings, "port": free_port()}


def test_one_that_is_not_there_or_goes_away_is_one_clear_error_and_is_found_again(postgres: PostgresServer) -> None:
    with postgres_server() as own:
        bench = Bench.open({"type": POSTGRES, **own.settings}, view())
        bench.write(("EWR", T, 1, 1.0))
        own.kill()
        for what in (lambda: bench.write(("EWR", T, 2, 1.0)), bench.x):
            with pytest.raises(StoreError, match=r"postgres 127\.0\.0\.1:\d+/postgres: .*start PostgreSQL there") as e:
                what()
            assert PASSWORD not in str(e.value) and "\n" not in str(e.value)
        own.start()
        assert bench.x() == 1.0, "what was written outlives a kill"
        assert bench.write(("EWR", T, 2, 2.0)).written == 1
    wrong = {"type": POSTGRES, **postgres.settings, "password": "another-secret"}
    with pytest.raises(StoreError, match="password authentication failed") as e:
        Bench.open(wrong, view())
    assert "another-secret" not in str(e.value)


def test_a_user_who_may_not_write_and_a_lock_that_nobody_gives_back_are_called_that(postgres: PostgresServer) -> None:
    bench = Bench.open({"type": POSTGRES, **postgres.settings, "statement_timeout_seconds": 0.2}, view())
    bench.write(("EWR", T, 1, 1.0))
    with postgres.connect() as other:
        other.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        for statement in ("USAGE ON SCHEMA public", "SELECT ON ALL TABLES IN SCHEMA public"):
            other.execute(f"GRANT {statement} TO reader")
        with other.transaction():
            other.execute(f'LOCK TABLE "{bench.config.project}_traffic_tandem"')
            with pytest.raises(StoreError, match="statement_timeout_seconds: look for who holds its locks"):
                bench.write(("EWR", T, 2, 1.0))
    reading = Bench(type(bench.store)(), bench.config.model_copy(deep=True), bench.table)
    reading.store.clock = bench.store.clock
    reading.config.online_store.user = reading.config.online_store.password = "reader"
    assert reading.x() == 1.0, "whoever only reads needs no right to make tables"
    with pytest.raises(StoreError, match="grant its user that"):
        reading.write(("EWR", T, 2, 1.0))


def test_stock_feast_goes_on_writing_while_tandem_is_upgraded(postgres: PostgresServer) -> None:
    """A view's trigger is of before until its next write or apply; a process that only reads changes nothing about it."""
    settings = {"type": POSTGRES, **postgres.settings}
    bench = Bench.open(settings, view(), {"type": "postgres", **postgres.settings})
    bench.write(("EWR", T, 1, 1.0))
    stock, config = bench.stock()

    def written_by_stock(at: datetime, x: float) -> None:
        stock.online_write_batch(config, bench.table, [(key(origin="EWR"), {"x": Value(double_val=x)}, at, None)], None)

    with postgres.connect() as admin:
        trigger_of_before(bench, admin)
        admin.execute("DROP FUNCTION tandem_row_elsewhere CASCADE")
        reader = Bench(type(bench.store)(), bench.config, bench.table)
        reader.store.clock = bench.store.clock
        assert reader.x() == 1.0
        written_by_stock(T + timedelta(seconds=1), 2.0)
        assert reader.x() == 2.0, "as before: its value, of our row's time"
        writer = Bench(type(bench.store)(), bench.config, bench.table)
        writer.store.clock = bench.store.clock
        writer.write(("EWR", T + timedelta(seconds=2), 1, 3.0))
        written_by_stock(T + timedelta(seconds=9), 4.0)
        writer.write(("EWR", T + timedelta(seconds=3), 1, 5.0))
        assert writer.x() == 4.0, "the trigger is ours again"


def test_a_writer_that_begins_replaces_the_triggers_of_before(postgres: PostgresServer) -> None:
    """Before its first row, which may be long in coming: till then stock Feast's writes failed by a trigger that was broken."""
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view(), {"type": "postgres", **postgres.settings})
    other = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    bench.store.apply_fingerprint(bench.config, "traffic", "new")
    bench.write(("EWR", T, 1, 1.0), fingerprint="new")

    def functions() -> dict[str, str]:
        rows = admin.execute("SELECT tgrelid::regclass::text, tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'tandem_elsewhere'")
        return dict(rows.fetchall())

    with postgres.connect() as admin:
        for each in (bench, other):
            trigger_of_before(each, admin)
        Bench(type(bench.store)(), bench.config, bench.table).store.claim(bench.config, "one")
        found = functions()
        assert found[f"{bench.config.project}_traffic"] == "tandem_row_elsewhere"
        assert found[f"{other.config.project}_traffic"] == "tandem_written_elsewhere", "another project's are its own"
    stock, config = bench.stock()
    stock.online_write_batch(config, bench.table, [(key(origin="EWR"), {"x": Value(double_val=2.0)}, T + MINUTE, None)], None)
    assert bench.x() == 2.0


def test_stock_feast_with_rights_on_its_own_tables_alone_goes_on_writing(postgres: PostgresServer) -> None:
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view(), {"type": "postgres", **postgres.settings})
    bench.write(("EWR", T, 1, 1.0))
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE stock LOGIN PASSWORD 'stock'")
        admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{bench.config.project}_traffic" TO stock')
    stock, config = bench.stock()
    config.online_store.user = config.online_store.password = "stock"
    config.online_store.db_schema = "public"
    at = T + timedelta(seconds=9)
    stock.online_write_batch(config, bench.table, [(key(origin="EWR"), {"x": Value(double_val=2.0)}, at, None)], None)
    assert bench.x() == 2.0


def test_a_writer_waits_for_no_table_whose_trigger_is_of_before_and_touches_those_of_its_own_views_alone(postgres: PostgresServer) -> None:
    """Names of tables begin alike where those of projects do: shop and shop_eu."""
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    longer = replace(bench, config=configuration(f"{bench.config.project}_eu", {"type": POSTGRES, **postgres.settings}))
    for each in (bench, longer):
        each.store.apply_fingerprint(each.config, "traffic", "new")
        each.write(("EWR", T, 1, 1.0), fingerprint="new")
    called = "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'tandem_elsewhere' AND tgrelid = %s::regclass"
    with postgres.connect() as admin:

        def function(of: Bench) -> str:
            return str(admin.execute(called, (f"{of.config.project}_traffic",)).fetchall()[0][0])

        for each in (bench, longer):
            trigger_of_before(each, admin)
        writer = own_process(bench, statement_timeout_seconds=10.0)
        with admin.transaction():
            admin.execute(f'LOCK TABLE "{bench.config.project}_traffic" IN ACCESS SHARE MODE')  # as a dump does
            assert writer.store.claim(writer.config, "one") == "one"
            assert writer.write(("EWR", T, 2, 2.0), fingerprint="new").written == 1
            assert function(bench) == "tandem_written_elsewhere"
        assert writer.store.claim(writer.config, "one") == "one"
        assert (function(bench), function(longer)) == ("tandem_row_elsewhere", "tandem_written_elsewhere")


def test_who_may_not_replace_a_trigger_of_before_writes_beside_it() -> None:
    """Its table is this user's, and nothing may be made in the schema."""
    with postgres_server() as own:
        bench = Bench.open({"type": POSTGRES, **own.settings}, view())
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.write(("EWR", T, 1, 1.0), fingerprint="new")
        with own.connect() as admin:
            trigger_of_before(bench, admin)
            admin.execute("CREATE ROLE keeper LOGIN PASSWORD 'keeper'")
            admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO keeper")
            admin.execute("GRANT CREATE ON SCHEMA public TO keeper")
            admin.execute(f'ALTER TABLE "{bench.config.project}_traffic" OWNER TO keeper')
            admin.execute("REVOKE CREATE ON SCHEMA public FROM keeper, public")
        keeper = own_process(bench, "keeper")
        assert keeper.store.claim(keeper.config, "one") == "one"
        assert keeper.write(("EWR", T, 2, 2.0), fingerprint="new").written == 1 and keeper.x() == 2.0


def test_a_server_that_lets_nobody_in_is_no_outage(postgres: PostgresServer) -> None:
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE barred PASSWORD 'barred'")
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        admin.execute("CREATE DATABASE closed")
        admin.execute("REVOKE CONNECT ON DATABASE closed FROM public")
    for fix, user, given in (
        ("correct its user and password", None, {"password": "no"}),
        ("correct its user and password", "nobody", {}),
        ("create it, or correct database", None, {"database": "none"}),
        ("grant its user LOGIN", "barred", {}),
        ("grant its user CONNECT", "guest", {"database": "closed"}),
        ("take another sslmode", None, {"sslmode": "require"}),
    ):
        other = own_process(bench, user, **given)
        for what in (partial(other.store.claim, other.config, "one"), partial(other.store.reach, other.config)):
            with pytest.raises(RightsError, match=fix) as refused:
                what()
            assert "\n" not in str(refused.value) and "start PostgreSQL" not in str(refused.value)


@contextlib.contextmanager
def in_another_language(
    port: int, code: bytes = b"", logins: list[socket.socket] | None = None, lost: Collection[int] = ()
) -> Iterator[int]:
    """The port of a relay to the server that says the texts of its errors in Japanese, severities too (``code``: in place of theirs);
    ``logins`` has the connections to it; of these it ends the ones whose numbers are in ``lost`` at once."""
    count = itertools.count(1)

    def translated(frame: bytes) -> bytes:
        fields = [f for f in frame[5:].split(b"\0") if f]
        new = {b"S": "致命的エラー".encode(), b"M": "接続できません".encode()} | ({b"C": code} if code else {})
        body = b"".join(f[:1] + new.get(f[:1], f[1:]) + b"\0" for f in fields) + b"\0"
        return b"E" + struct.pack("!I", 4 + len(body)) + body

    def talk(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server, server.makefile("rb") as answers:
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            while head := answers.read(5):
                frame = head + answers.read(struct.unpack("!I", head[1:])[0] - 4)
                client.sendall(translated(frame) if head[:1] == b"E" else frame)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                if logins is not None:
                    logins.append(client)
                if next(count) in lost:
                    client.close()
                    continue
                threading.Thread(target=talk, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_lets_nobody_in_is_no_outage_in_any_language(postgres: PostgresServer) -> None:
    """One whose ``lc_messages`` are others was waited for: what it says is known by its words in English alone."""
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE outside PASSWORD 'outside'")
        admin.execute("CREATE ROLE visitor LOGIN PASSWORD 'visitor'")
        admin.execute("CREATE DATABASE locked")
        admin.execute("REVOKE CONNECT ON DATABASE locked FROM public")
    with in_another_language(postgres.port) as port:
        for fix, user, given in (
            ("correct its user and password", None, {"password": "no"}),
            ("correct its user and password", "nobody", {}),
            ("create it, or correct database", None, {"database": "none"}),
            ("let its user log in from this machine: LOGIN", "outside", {}),
            ("grant its user CONNECT", "visitor", {"database": "locked"}),
        ):
            other = own_process(bench, user, port=port, **given)
            with pytest.raises(RightsError, match=fix) as refused:
                other.store.reach(other.config)
            assert "接続できません" in str(refused.value) and "\n" not in str(refused.value)
        other = own_process(bench, None, port=port)
        other.store.reach(other.config)
    for code in (b"57P03", b"53300", b"57P01", b"XX000"):  # it starts, has too many connections, or ends: that is waited for
        with in_another_language(postgres.port, code) as port:
            other = own_process(bench, None, port=port, password="no")
            with pytest.raises(StoreError, match="start PostgreSQL there") as away:
                other.store.reach(other.config)
            assert not isinstance(away.value, RightsError)


@pytest.mark.parametrize("code", [b"28P01", b"57P03"], ids=["refused", "starts"])
def test_what_waits_for_days_asks_a_server_once_what_it_means(postgres: PostgresServer, code: bytes) -> None:
    """Each question is a login more, which counts towards a lockout, and memory that psycopg does not give back."""
    bench, logins = Bench.open({"type": POSTGRES, **postgres.settings}, view()), list[socket.socket]()
    with in_another_language(postgres.port, code, logins) as port:
        other = own_process(bench, None, port=port, password="no")
        for n in range(1, 21):
            with pytest.raises(StoreError) as told:
                other.store.reach(other.config)
            assert isinstance(told.value, RightsError) == (code == b"28P01") and len(logins) == n + 1


def test_a_question_that_nobody_answered_is_asked_again(postgres: PostgresServer) -> None:
    """The server that refused ended while it was asked: a wrong password is no outage for the rest of the process."""
    bench, logins = Bench.open({"type": POSTGRES, **postgres.settings}, view()), list[socket.socket]()
    with in_another_language(postgres.port, b"28P01", logins, lost={2}) as port:
        other, told = own_process(bench, None, port=port, password="no"), []
        for _ in range(3):
            with pytest.raises(StoreError) as caught:
                other.store.reach(other.config)
            told.append(isinstance(caught.value, RightsError))
    assert told == [False, True, True] and len(logins) == 5


@pytest.mark.parametrize(
    ("host", "said"),
    [("no-such-host.invalid", "failed to resolve host 'no-such-host.invalid'"), ("/no/such/folder", "No such file or directory")],
)
def test_an_address_that_leads_nowhere_is_told_as_it_is(postgres: PostgresServer, host: str, said: str) -> None:
    other = own_process(Bench.open({"type": POSTGRES, **postgres.settings}, view()), host=host)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{said}.*; start PostgreSQL there, or fix host and port"):
            other.store.reach(other.config)


def test_a_process_with_many_files_open_learns_why_it_is_refused(postgres: PostgresServer) -> None:
    """select() takes no descriptor above 1,023."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2_048:
        pytest.skip("this machine lets no process have so many")
    with contextlib.ExitStack() as held, in_another_language(postgres.port) as port:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2_048), limits[1]))
        while (held.enter_context(open(os.devnull))).fileno() < 1_100:
            pass
        other = own_process(bench, None, port=port, password="no")
        with pytest.raises(RightsError, match="correct its user and password"):
            other.store.reach(other.config)


def test_names_are_quoted_and_may_be_long(postgres: PostgresServer) -> None:
    name = 'o"dd; DROP TABLE x --' + "y" * 35
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view(name=name))
    bench.write(("EWR", T, 1, 1.0))
    assert bench.x() == 1.0
    with pytest.raises(StoreError, match="63 bytes"):
        bench.of(view(name=name + "z" * 8))


def test_two_writers_of_the_same_keys_in_other_orders_do_not_wait_in_a_circle(postgres: PostgresServer) -> None:
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    keys = [f"K{i}" for i in range(200)]
    failed: list[BaseException] = []

    def write(way: int, step: int) -> None:
        try:
            for n in range(5):
                bench.write(*((k, T + timedelta(seconds=n), step, float(n)) for k in keys[::way]))
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(way, step)) for step, way in enumerate((1, -1, 1, -1))]
    for t in writers:
        t.start()
    for t in writers:
        t.join()
    assert failed == []
    read = ColumnRead(bench.table, [bench.store.entity_key(bench.config, key(origin=k)) for k in keys], ("x",))
    (columns,) = bench.store.read_columns(bench.config, [read])
    assert isinstance(columns, PackedColumns) and columns.rows.values(columns.rows.layout.slots["x"]).tolist() == [4.0] * 200


def test_a_graph_is_applied_before_or_after_a_batch_never_in_it(postgres: PostgresServer) -> None:
    """Whoever applies waits for the batch under way, and the next one is refused."""
    bench = Bench.open({"type": POSTGRES, **postgres.settings}, view())
    store: Any = bench.store
    applying = threading.Thread(target=store.apply_fingerprint, args=(bench.config, "traffic", "other"))
    with store._transaction(bench.config, "traffic") as cursor:
        applying.start()
        applying.join(0.3)
        assert applying.is_alive()
        cursor.execute("SELECT 1")
    applying.join()
    with pytest.raises(Exception, match="is applied"):
        bench.write(("EWR", T, 1, 1.0))


@pytest.mark.parametrize("applied", [False, True])
def test_rows_of_feasts_own_class_are_not_none_without_a_word(postgres: PostgresServer, tmp_path: Path, applied: bool) -> None:
    """FAULTS 30: a table that stock Feast wrote, read by the ordered class: it says what to do, until that is done."""
    repo = Repo(tmp_path)

    def opened(kind: str) -> Any:
        given = {"type": kind, **postgres.settings, "db_schema": f"stock_{applied}".lower()}
        config = RepoConfig(
            project="t", registry=str(tmp_path / "registry.db"), provider="local", repo_path=tmp_path, entity_key_serialization_version=3,
            online_store=given, offline_store={"type": "serving.offline_store.AsofOfflineStore"},
        )  # fmt: skip
        return FeatureStore(config=config)

    repo.write([row("JFK", 1, T0, 5)])
    stock = opened("postgres")
    stock.apply([repo.view])
    stock.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
    store = opened(POSTGRES)
    store.config.online_store.as_of = T0
    if applied:
        store.apply([repo.view])
    asked: dict[str, Any] = {"features": ["legs:n"], "entity_rows": [{"origin": "JFK", "number": 1}]}
    for _ in range(2):
        with pytest.raises(StoreError, match="view 'legs': its rows were written by another online store class"):
            store.get_online_features(**asked)
    store.materialize(T0 - timedelta(days=1), T0 + timedelta(days=1))
    assert store.get_online_features(**asked).to_dict()["n"] == [5]
    asked["entity_rows"] = [{"origin": "nowhere", "number": 1}]
    assert store.get_online_features(**asked).to_dict()["n"] == [None]
