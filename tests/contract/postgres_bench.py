"""What tests of the PostgreSQL online store have in common: a moment, another process of it, and a trigger of an earlier version."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tandem.testing.online_store import NOW, Bench

__all__ = ["POSTGRES", "T", "own_process", "trigger_of_before"]

POSTGRES = "serving.online_store.postgres.OrderedPostgresOnlineStore"
T = NOW - timedelta(hours=1)


def trigger_of_before(bench: Bench, admin: Any) -> None:
    """The function and the trigger of a view as 0.1 made them: without an order table."""
    admin.execute("""
        CREATE OR REPLACE FUNCTION tandem_written_elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('DELETE FROM %I.%I WHERE entity_key = $1 AND feature_name = ''_tandem_packed''', TG_TABLE_SCHEMA, TG_TABLE_NAME)
                USING NEW.entity_key; RETURN NULL; END $$""")
    admin.execute(f"""
        CREATE OR REPLACE TRIGGER tandem_elsewhere AFTER INSERT OR UPDATE ON "{bench.config.project}_traffic" FOR EACH ROW
        WHEN (coalesce(current_setting('tandem.writing', true), '') <> 'yes') EXECUTE FUNCTION tandem_written_elsewhere()""")


def own_process(bench: Bench, user: str | None = None, **settings: Any) -> Bench:
    """The same project from another process, perhaps as another user, whose password is its name."""
    made = replace(bench, store=type(bench.store)(), config=bench.config.model_copy(deep=True))
    made.store.clock = bench.store.clock
    if user is not None:
        settings |= {"user": user, "password": user, "db_schema": "public"}
    for name, value in settings.items():
        setattr(made.config.online_store, name, value)
    return made
