"""The tables of the PostgreSQL online store, and the statements that fill and read them.

Names are quoted here and nowhere else; values are always parameters.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from psycopg import sql

from serving.online_store.packed import PACKED
from transforms.errors import StoreError

__all__ = [
    "COMMON", "SEES_MARK", "adopt", "claim", "create", "delete", "drop", "fields_query", "has_rows", "is_set_up", "keys_query",
    "order_table", "packed_query", "state", "superseded", "triggers_of_before", "write",
]  # fmt: skip

_MOST_BYTES, _END = 63, "_tandem"
_ELSEWHERE = "tandem_row_elsewhere"
"""What the triggers call. A name for each meaning: a trigger of before calls its own function until it is made anew; that of 0.1 is
``tandem_written_elsewhere``, which is given no order table."""
COMMON = f"""
CREATE TABLE IF NOT EXISTS tandem_applied (project text, view text, fingerprint text NOT NULL, PRIMARY KEY (project, view));
CREATE TABLE IF NOT EXISTS tandem_covered
    (project text, view text, stamp bigint NOT NULL, upto_us bigint NOT NULL, PRIMARY KEY (project, view));
CREATE TABLE IF NOT EXISTS tandem_marks (project text, name text, value bigint NOT NULL, PRIMARY KEY (project, name));
CREATE TABLE IF NOT EXISTS tandem_owner (project text PRIMARY KEY, owner text NOT NULL);
CREATE OR REPLACE FUNCTION {_ELSEWHERE}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    orders regclass := to_regclass(format('%I.%I', TG_TABLE_SCHEMA, TG_ARGV[0]));
BEGIN
    EXECUTE format('DELETE FROM %I.%I WHERE entity_key = $1 AND feature_name = ''{PACKED}''', TG_TABLE_SCHEMA, TG_TABLE_NAME)
        USING NEW.entity_key;
    IF has_table_privilege(orders, 'SELECT') AND has_table_privilege(orders, 'INSERT') AND has_table_privilege(orders, 'UPDATE') THEN
        EXECUTE format('INSERT INTO %s AS o (entity_key, event_us, revision, fingerprint, stamp) VALUES ($1, $2, -1, $3, 0)'
            ' ON CONFLICT (entity_key) DO UPDATE SET event_us = $2, revision = -1, fingerprint = $3, stamp = 0 WHERE o.event_us <> $2',
            orders) USING NEW.entity_key, coalesce((extract(epoch FROM NEW.event_ts) * 1000000)::bigint, 0), '';
    END IF;
    RETURN NULL;
END $$;
"""
"""What all views of a schema share. Who may write Feast's tables alone (stock Feast with rights of its own) does, without an order."""


_MAY_REPLACE = sql.SQL("(pg_has_role(f.relowner, 'USAGE') AND has_schema_privilege(f.relnamespace, 'CREATE'))")
"""Whether this user may run :func:`create` where a table ``f`` of Feast's is."""
SEES_MARK = "SELECT coalesce(has_table_privilege(to_regclass('tandem_owner'), 'SELECT'), false)"
"""Whether this user may read whose the rows are."""


def order_table(name: str) -> str:
    """The table with the order of the rows of a view, whose table of Feast's is ``name``. Raises StoreError for a name that PostgreSQL
    would cut off, and so take for that of another view."""
    size = len(name.encode())
    if size > _MOST_BYTES:
        raise StoreError(
            f"table {name!r} has a name of {size} bytes, PostgreSQL takes {_MOST_BYTES} bytes; shorten the view's or the project's"
        )
    if size + len(_END) <= _MOST_BYTES:
        return name + _END
    short = f"_{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}{_END}"
    return name.encode()[: _MOST_BYTES - len(short)].decode(errors="ignore") + short


def _pair(name: str) -> dict[str, sql.Composable]:
    return {"rows": sql.Identifier(order_table(name)), "fields": sql.Identifier(name)}


@lru_cache(maxsize=256)
def create(name: str) -> tuple[sql.Composed, ...]:
    """The tables of a view, where they are not there. Whoever writes a feature without saying so (stock Feast) takes the key's packed row
    away, and the order is that of a row of no graph at its time."""
    return _each(
        """
        CREATE TABLE IF NOT EXISTS {fields} (entity_key bytea, feature_name text, value bytea, vector_value bytea NULL,
            event_ts timestamptz, created_ts timestamptz, PRIMARY KEY (entity_key, feature_name));
        ALTER TABLE {fields} ADD COLUMN IF NOT EXISTS value_text text NULL;
        CREATE TABLE IF NOT EXISTS {rows} (entity_key bytea PRIMARY KEY, event_us bigint NOT NULL, revision bigint NOT NULL,
            fingerprint text NOT NULL, stamp bigint NOT NULL);
        CREATE OR REPLACE TRIGGER tandem_elsewhere AFTER INSERT OR UPDATE ON {fields}
            FOR EACH ROW WHEN (coalesce(current_setting('tandem.writing', true), '') <> 'yes')
            EXECUTE FUNCTION {elsewhere}({order})
        """,
        name,
    )


@lru_cache(maxsize=256)
def state(name: str, owned: bool) -> sql.Composed:
    """One line: the applied fingerprint, stamp and upto_us of what is covered (null each where there is none), whether the tables are
    there and guarded, whether that is by a trigger of before which this user may replace, and, where ``owned``, whose the rows are. Says
    that who goes on writes the rows with their orders, packed or not: given ``project`` and ``view``."""
    owner = sql.SQL("(SELECT nullif(owner, '') FROM tandem_owner WHERE project = %(project)s)" if owned else "NULL")
    return sql.SQL("""
        SELECT (SELECT fingerprint FROM tandem_applied WHERE project = %(project)s AND view = %(view)s), c.stamp, c.upto_us,
            to_regclass({rows}) IS NOT NULL AND t.old IS NOT NULL, coalesce(t.old, false),
            {owner}, set_config('tandem.writing', 'yes', true)
        FROM (SELECT) one LEFT JOIN tandem_covered c ON c.project = %(project)s AND c.view = %(view)s
            LEFT JOIN (
                SELECT coalesce(t.tgfoid <> to_regproc({elsewhere}), false) AND {may} AS old
                FROM pg_trigger t JOIN pg_class f ON f.oid = t.tgrelid
                WHERE f.oid = to_regclass({fields}) AND t.tgname = 'tandem_elsewhere'
            ) t ON true
        """).format(owner=owner, may=_MAY_REPLACE, fields=_quoted(name), rows=_quoted(order_table(name)), elsewhere=sql.Literal(_ELSEWHERE))


@lru_cache(maxsize=1)
def triggers_of_before() -> sql.Composed:
    """The tables of Feast's of a project's views whose trigger calls another function than ours, of those that this user may change:
    (project). By the views that were applied: names of tables begin alike where those of projects do."""
    return sql.SQL("""
        SELECT f.relname
        FROM tandem_applied a JOIN pg_class f ON f.relname = a.project || '_' || a.view JOIN pg_trigger t ON f.oid = t.tgrelid
        WHERE a.project = %s AND t.tgname = 'tandem_elsewhere' AND f.relnamespace = current_schema()::regnamespace
            AND t.tgfoid <> to_regproc({}) AND {}
        """).format(sql.Literal(_ELSEWHERE), _MAY_REPLACE)


def claim(take: bool) -> sql.SQL:
    """Whose the rows are from now on: (project, owner). No mark is an empty one, which takes no right to delete."""
    return sql.SQL(f"""
        INSERT INTO tandem_owner AS o VALUES (%s, %s)
        ON CONFLICT (project) DO UPDATE SET owner = {"excluded.owner" if take else "coalesce(nullif(o.owner, ''), excluded.owner)"}
        RETURNING owner
        """)


@lru_cache(maxsize=1)
def is_set_up() -> sql.Composed:
    """Whether all of :data:`COMMON` is there."""
    return sql.SQL("SELECT to_regclass('tandem_owner') IS NOT NULL AND to_regproc({}) IS NOT NULL").format(sql.Literal(_ELSEWHERE))


def _quoted(name: str) -> sql.Literal:
    return sql.Literal('"' + name.replace('"', '""') + '"')


@lru_cache(maxsize=256)
def adopt(name: str) -> sql.Composed:
    """Give the rows that another class wrote before the first of ours an order, below all of ours of their time: those of them that are not
    written anew would be read as none. Looks for one row where there is one of ours."""
    return sql.SQL("""
        INSERT INTO {rows} (entity_key, event_us, revision, fingerprint, stamp)
        SELECT entity_key, coalesce((extract(epoch FROM max(event_ts)) * 1000000)::bigint, 0), -1, '', 0 FROM {fields}
        WHERE NOT EXISTS (SELECT FROM {rows}) GROUP BY entity_key ORDER BY entity_key ON CONFLICT DO NOTHING
        """).format(**_pair(name))


@lru_cache(maxsize=256)
def drop(name: str) -> tuple[sql.Composed, ...]:
    """Take both tables away."""
    return _each("DROP TABLE IF EXISTS {fields}; DROP TABLE IF EXISTS {rows}", name)


@lru_cache(maxsize=256)
def write(name: str) -> sql.Composed:
    """Write those of some rows that win, whole, and give their number: columns of the rows, and ``vals``, the values of their features row
    by row; where there are no packed rows (``packed``), those of before go.

    Keys are locked in one order by all writers, so that none waits for another in a circle.
    """
    return sql.SQL("""
        WITH given AS MATERIALIZED (
            SELECT * FROM unnest(%(keys)s::bytea[], %(us)s::bigint[], %(revisions)s::bigint[], %(prints)s::text[],
                %(times)s::timestamptz[], %(created)s::timestamptz[]) WITH ORDINALITY
                AS r (entity_key, event_us, revision, fingerprint, event_ts, created_ts, number)
        ), winners AS (
            INSERT INTO {rows} AS o (entity_key, event_us, revision, fingerprint, stamp)
            SELECT entity_key, event_us, revision, fingerprint, %(stamp)s FROM given ORDER BY entity_key
            ON CONFLICT (entity_key) DO UPDATE SET event_us = excluded.event_us, revision = excluded.revision,
                fingerprint = excluded.fingerprint, stamp = excluded.stamp
            WHERE (excluded.event_us, excluded.revision) > (o.event_us, o.revision)
               OR (excluded.fingerprint <> o.fingerprint AND excluded.fingerprint = %(applied)s)
               OR (excluded.stamp > o.stamp AND o.event_us <= coalesce(%(upto)s, excluded.event_us))
            RETURNING entity_key
        ), fields AS (
            INSERT INTO {fields} AS f (entity_key, feature_name, value, event_ts, created_ts)
            SELECT r.entity_key, n.name, v.value, r.event_ts, r.created_ts
            FROM unnest(%(vals)s::bytea[]) WITH ORDINALITY AS v (value, number)
            JOIN unnest(%(names)s::text[]) WITH ORDINALITY AS n (name, number) ON n.number = (v.number - 1) %% %(width)s + 1
            JOIN given r ON r.number = (v.number - 1) / %(width)s + 1
            JOIN winners USING (entity_key)
            ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, value_text = NULL, vector_value = NULL,
                event_ts = excluded.event_ts, created_ts = excluded.created_ts
        ), unpacked AS (
            DELETE FROM {fields} WHERE NOT %(packed)s AND feature_name = {packed} AND entity_key IN (SELECT entity_key FROM winners)
        )
        SELECT count(*) FROM winners
        """).format(**_pair(name), packed=sql.Literal(PACKED))


@lru_cache(maxsize=256)
def fields_query(name: str) -> sql.Composed:
    """A line per key that has a row: key, event time, the names of its features and their values: (names, keys)."""
    return sql.SQL("""
        SELECT o.entity_key, o.event_us, f.names, f.vals FROM {rows} o LEFT JOIN LATERAL (
            SELECT array_agg(feature_name) AS names, array_agg(value) AS vals FROM {fields}
            WHERE entity_key = o.entity_key AND feature_name = ANY (%s::text[])
        ) f ON true WHERE o.entity_key = ANY (%s::bytea[])
        """).format(**_pair(name))


@lru_cache(maxsize=256)
def packed_query(name: str) -> sql.Composed:
    """A line per key that has a row: key, packed row or null: (keys)."""
    return sql.SQL("""
        SELECT o.entity_key, f.value FROM {rows} o LEFT JOIN {fields} f ON f.entity_key = o.entity_key AND f.feature_name = {packed}
        WHERE o.entity_key = ANY (%s::bytea[])
        """).format(**_pair(name), packed=sql.Literal(PACKED))


@lru_cache(maxsize=256)
def has_rows(name: str) -> tuple[sql.Composed, ...]:
    """Whether Feast's table has a row, and whether that of their order has one; each fails where its table is not there."""
    return _each("SELECT EXISTS (SELECT FROM {fields}); SELECT EXISTS (SELECT FROM {rows})", name)


@lru_cache(maxsize=256)
def keys_query(name: str) -> sql.Composed:
    """The next keys that have a row, in order: (the last one before, bytes that are in them, how many at most)."""
    return sql.SQL("""
        SELECT entity_key FROM {rows} WHERE entity_key > %s AND position(%s::bytea IN entity_key) > 0 ORDER BY entity_key LIMIT %s
        """).format(**_pair(name))


@lru_cache(maxsize=256)
def superseded(name: str, count_only: bool) -> sql.Composed:
    """The number of rows that a materialization superseded, which are dropped unless they are only counted."""
    some = "(event_us BETWEEN %(start)s AND %(upto)s AND stamp >= %(since)s AND stamp < %(stamp)s)"
    some += " OR (%(since)s = 0 AND fingerprint <> %(applied)s)"
    if count_only:
        return sql.SQL(f"SELECT count(*) FROM {{rows}} WHERE {some}").format(**_pair(name))
    return sql.SQL(f"""
        WITH gone AS (DELETE FROM {{rows}} WHERE {some} RETURNING entity_key),
             fields AS (DELETE FROM {{fields}} WHERE entity_key IN (SELECT entity_key FROM gone))
        SELECT count(*) FROM gone
        """).format(**_pair(name))


@lru_cache(maxsize=256)
def delete(name: str) -> tuple[sql.Composed, ...]:
    """Delete the rows of some keys from both tables: (keys), each."""
    return _each("DELETE FROM {rows} WHERE entity_key = ANY (%s::bytea[]); DELETE FROM {fields} WHERE entity_key = ANY (%s::bytea[])", name)


def _each(statements: str, name: str) -> tuple[sql.Composed, ...]:
    given = {**_pair(name), "order": sql.Literal(order_table(name)), "elsewhere": sql.Identifier(_ELSEWHERE)}
    return tuple(sql.SQL(one).format(**given) for one in statements.split(";"))
