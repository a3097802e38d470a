"""What users of the PostgreSQL online store may do, and what is said where that is less than is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from tandem.testing.online_store import Bench, view
from tests.contract.postgres_bench import POSTGRES, T, own_process, trigger_of_before
from tests.integration.serving_world import GOOD, make_repo, push, settings
from tests.postgres_server import PASSWORD, USER, postgres_server
from transforms.errors import OwnerError, RightsError


def _may_all_but_the_mark(admin: Any, role: str) -> None:
    """A login, called as its password, that may read and write every table there is but the one that says whose the rows are."""
    admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    admin.execute(f"REVOKE ALL ON tandem_owner FROM {role}")


def test_a_mark_is_moved_and_given_back_with_the_rights_that_the_line_names_and_without_them_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with postgres_server() as own:
        bench = Bench.open({"type": POSTGRES, **own.settings}, view())
        bench.write(("EWR", T, 1, 1.0))
        bench.store.claim(bench.config, "one /here")
        with own.connect() as admin:
            _may_all_but_the_mark(admin, "taker")
            taker = own_process(bench, "taker")
            taker.store.writer = "two /there"
            for right in ("", "SELECT"):
                if right:
                    admin.execute(f"GRANT {right} ON tandem_owner TO taker")
                with pytest.raises(RightsError, match="grant this user SELECT, INSERT and UPDATE on table tandem_owner"):
                    taker.store.claim(taker.config, "two /there", take=True)
                assert bench.store.owner(bench.config) == "one /here"
            assert taker.store.claim(taker.config, "two /there") == "one /here", "it may look, and it is another's"
            admin.execute("GRANT SELECT, INSERT, UPDATE ON tandem_owner TO taker")
            assert taker.store.claim(taker.config, "two /there", take=True) == bench.store.owner(bench.config) == "two /there"
            taker.store.disclaim(taker.config, "two /there")
            assert bench.store.owner(bench.config) is None
            bench.store.writer = "one"
            assert bench.write(("EWR", T, 2, 1.0)).written == 1
            assert taker.store.claim(taker.config, "three") == "three"


def test_a_right_to_the_mark_that_is_granted_counts_without_a_restart() -> None:
    with postgres_server() as own:
        bench = Bench.open({"type": POSTGRES, **own.settings}, view())
        bench.write(("EWR", T, 1, 1.0))
        bench.store.claim(bench.config, "one")
        with own.connect() as admin:
            _may_all_but_the_mark(admin, "late")
            writer = own_process(bench, "late")
            writer.store.writer = "two"
            assert writer.write(("EWR", T, 2, 1.0)).written == 1, "it cannot know"
            admin.execute("GRANT SELECT, INSERT, UPDATE ON tandem_owner TO late")
            with pytest.raises(OwnerError):
                writer.write(("EWR", T, 3, 1.0))


@pytest.mark.parametrize("there", ["no table", "no right"])
def test_a_writer_without_rights_to_the_mark_writes_on_and_is_told(caplog: pytest.LogCaptureFixture, there: str) -> None:
    """Rights as they were given before there was a mark: CREATE to whoever applies, rows to whoever writes."""
    name = f"writer_{there.replace(' ', '_')}"
    with postgres_server() as own:
        bench = Bench.open({"type": POSTGRES, **own.settings}, view())
        bench.write(("EWR", T, 1, 1.0))
        with own.connect() as admin:
            admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'writer'")
            admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
            admin.execute("DROP TABLE tandem_owner" if there == "no table" else f"REVOKE ALL ON tandem_owner FROM {name}")
            if there == "no table":
                trigger_of_before(bench, admin)
        writer = Bench(type(bench.store)(), bench.config.model_copy(deep=True), bench.table)
        writer.store.clock = bench.store.clock
        store = writer.config.online_store
        store.user, store.password, store.db_schema = name, "writer", "public"
        writer.store.writer = "mine"
        assert [writer.store.claim(writer.config, "mine") for _ in range(2)] == ["mine", "mine"]
        (line,) = [r.getMessage() for r in caplog.records if "tandem_owner" in r.getMessage()]
        assert "GRANT" in line.upper() and "\n" not in line
        assert writer.write(("EWR", T, 2, 2.0)).written == 1 and writer.x() == 2.0


@pytest.mark.parametrize("right", ["nothing there yet", "rows alone", "all", "read-only by default"])
def test_a_server_that_may_only_read_is_ready_and_tells_in_one_line_what_it_may_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    """Reading what is applied and covered was a transaction as writers make them; what failed was a trace, and the store not ready."""
    with postgres_server() as own:
        make_repo(tmp_path, store=POSTGRES, settings=own.settings)
        with own.connect() as admin:
            admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
            admin.execute("GRANT USAGE ON SCHEMA public TO reader")
            admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
            if right == "nothing there yet":
                admin.execute("DROP TABLE tandem_applied, tandem_covered, tandem_marks")
            if right == "rows alone":
                admin.execute("REVOKE SELECT ON tandem_applied, tandem_covered, tandem_marks FROM reader")
            if right == "read-only by default":
                admin.execute("GRANT CREATE ON SCHEMA public TO reader")
                admin.execute("ALTER ROLE reader SET default_transaction_read_only = on")
                admin.execute("DROP TABLE tandem_marks")
        path = tmp_path / "repo" / "feature_store.yaml"
        path.write_text(path.read_text().replace(f"user: {USER}", "user: reader").replace(f"password: {PASSWORD}", "password: reader"))
        push(tmp_path, tmp_path, 1)
        with TestClient(create_app(settings(tmp_path))) as client:
            plane = client.app.state.dataplane  # type: ignore[attr-defined]
            for _ in range(3):
                assert client.get("/v2/health/ready").json()["ready"], client.get("/v2/health/ready").text
                assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 200
                plane.poll()
    lines = [r for r in caplog.records if r.levelname == "WARNING" and r.name == "tandem.serving"]
    assert not any(r.exc_info for r in lines) and all("\n" not in r.getMessage() for r in lines)
    beside = [r.getMessage() for r in lines if "the applied graphs and covered times of its views cannot be read" in r.getMessage()]
    assert len(beside) == (2 if right == "rows alone" else 0) and all("permission denied for table tandem_" in line for line in beside)
