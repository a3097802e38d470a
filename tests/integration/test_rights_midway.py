"""A right that is taken away while a stream runs: it waits, says why, loses nothing, and goes on by itself once the right is back."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.streaming.stages.shard_delivery import ShardDelivery
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.status import StreamStatus, Tracker, line
from tandem.testing.online_store import NOW, Bench, view
from tests.postgres_server import postgres_server
from tests.redis_server import redis_server
from tests.waiting import until

T = NOW - timedelta(hours=1)
STORE = "serving.online_store.{}.Ordered{}OnlineStore"


def waits_and_goes_on(folder: Path, bench: Bench, take: Callable[[], Any], give: Callable[[], Any], why: str) -> None:
    """Rows are written, the right is taken, rows wait, the right is given back, they are there."""
    state = JobState(folder / "main")
    state.begin()
    delivery = ShardDelivery(shard=0, job_state=state, closed=threading.Event())
    turn, done, failed = threading.Semaphore(0), threading.Semaphore(0), list[BaseException]()

    def work() -> None:
        try:
            for revision in (1, 2, 3):
                turn.acquire()
                rows = [(name, T, revision, float(revision)) for name in ("EWR", *map(str, range(150)))]
                delivery.patiently("online store", partial(bench.write, *rows))
                done.release()
        except BaseException as error:
            failed.append(error)
            done.release()

    def looked() -> StreamStatus:
        assert not failed, failed
        return Tracker(state).look()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    turn.release()
    assert done.acquire(timeout=60) and not failed
    take()
    turn.release()
    found = until(lambda: why in (now := looked()).waiting_why.get("online store", "") and now)
    assert found.waiting_shards == 1
    assert f"waiting for online store ({found.waiting_why['online store']})" in line(found) and "\n" not in line(found)
    until(lambda: any(why in said for said in state.said()[0]))  # which is said a moment after it is known
    assert state.failure() is None
    give()
    assert done.acquire(timeout=60) and not failed, failed
    turn.release()
    assert done.acquire(timeout=60) and not failed, failed
    worker.join(60)
    assert bench.x() == 3.0 and not looked().waiting
    assert any("is back after" in said for said in state.said()[0])


def test_of_redis(tmp_path: Path) -> None:
    with redis_server() as server:

        def rights(*without: str) -> None:
            server.client.acl_setuser("tandem", enabled=True, passwords=["+pw"], categories=["+@all"], commands=list(without), keys=["*"])

        rights()
        settings = {"type": STORE.format("redis", "Redis"), "connection_string": f"{server.connection_string},username=tandem,password=pw"}
        bench = Bench.open(settings, view())
        waits_and_goes_on(tmp_path, bench, lambda: rights("-watch", "-evalsha"), lambda: rights("+watch", "+evalsha"), "let its user run")


def test_of_redis_whose_password_is_another(tmp_path: Path) -> None:
    with redis_server() as server:

        def password(password: str) -> None:
            server.client.acl_setuser(
                "tandem", enabled=True, reset_passwords=True, passwords=[f"+{password}"], categories=["+@all"], keys=["*"]
            )
            server.client.client_kill_filter(user="tandem")

        password("pw")
        settings = {"type": STORE.format("redis", "Redis"), "connection_string": f"{server.connection_string},username=tandem,password=pw"}
        waits_and_goes_on(
            tmp_path, Bench.open(settings, view()), lambda: password("no"), lambda: password("pw"), "correct its user and password"
        )


@pytest.mark.parametrize("right", ["INSERT", "CONNECT"])
def test_of_postgres(tmp_path: Path, right: str) -> None:
    with postgres_server() as server, server.connect() as admin:
        owner = Bench.open({"type": STORE.format("postgres", "Postgres"), **server.settings}, view())
        owner.write(("EWR", T, 0, 0.0))
        admin.execute("CREATE ROLE stream LOGIN PASSWORD 'stream'")
        admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO stream")
        admin.execute("REVOKE CONNECT ON DATABASE postgres FROM public")

        def grant() -> None:
            admin.execute("GRANT CONNECT ON DATABASE postgres TO stream")
            admin.execute("GRANT INSERT ON ALL TABLES IN SCHEMA public TO stream")

        def revoke() -> None:
            if right == "INSERT":
                admin.execute("REVOKE INSERT ON ALL TABLES IN SCHEMA public FROM stream")
            else:
                admin.execute("REVOKE CONNECT ON DATABASE postgres FROM stream")
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'stream'")

        grant()
        config = owner.config.model_copy(deep=True)
        config.online_store.user = config.online_store.password = "stream"
        config.online_store.db_schema = "public"
        bench = Bench(type(owner.store)(), config, owner.table)
        bench.store.clock = owner.store.clock
        waits_and_goes_on(tmp_path, bench, revoke, grant, "permission denied")


def test_of_sqlite(tmp_path: Path) -> None:
    """A connection that is opened while the file may only be read can never write: it was kept after the right was back."""
    user, root = 65534, os.getuid() == 0

    def become(who: int) -> None:  # this thread alone: root may write whatever the modes are
        if root:
            ctypes.CDLL(None).setfsuid(who)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "online.db")
        os.chmod(folder, 0o755)
        bench = Bench.open({"type": STORE.format("sqlite", "Sqlite"), "path": str(path)}, view())
        bench.write(("EWR", T, 0, 0.0))

        def mode(folders: int, others: int) -> None:
            for file in (Path(folder), *Path(folder).iterdir()):
                if root:
                    os.chown(file, user, user)
                file.chmod(folders if file.is_dir() else others)

        def take() -> None:
            mode(0o555, 0o444)
            again.set()

        again = threading.Event()
        store: Any = bench.store
        write = store.write_winners

        def write_anew(*args: Any) -> Any:
            become(user)
            try:
                if again.is_set():  # as a worker that starts meanwhile
                    again.clear()
                    store._file(bench.config).close()
                return write(*args)
            finally:
                become(0)

        store.write_winners = write_anew
        mode(0o755, 0o644)
        waits_and_goes_on(tmp_path, bench, take, lambda: mode(0o755, 0o644), "readonly")
