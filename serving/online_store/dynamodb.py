"""The DynamoDB online store: Feast's layout, with the order of each row among its item's attributes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from feast import Entity, FeatureView, RepoConfig
from pydantic import Field, field_validator

from serving.online_store.base import Covered, OrderedOnlineStore, OrderedOnlineStoreConfig, Rows, StoredRow, unreachable
from serving.online_store.dynamodb_items import (
    EVENT,
    ID,
    ITEM_BYTES,
    KEY,
    ORDER,
    PACKED_COPY,
    VALUES,
    Item,
    as_read,
    id_of,
    items_of,
    order_of,
    sizes_of,
    stored_row,
)
from serving.online_store.order import Order, check_owner, row_wins
from serving.online_store.packed_rows import PackedRows
from serving.online_store.store_columns import ColumnRead, PackedColumns, StoredColumns, by_columns
from transforms.errors import ConfigError, StoreError

try:
    from botocore.exceptions import BotoCoreError, ClientError

    from serving.online_store.dynamodb_link import ForeignAnswerError, Link, ThrottledError, cut, fix_of, is_missing, refuses
    from serving.online_store.dynamodb_state import State, read_open
except ImportError as missing:
    raise ConfigError(
        f"the DynamoDB online store needs the extra 'dynamodb' ({missing}): pip install 'tandem-features[dynamodb]'"
    ) from None

__all__ = ["OrderedDynamoDBOnlineStore", "OrderedDynamoDBOnlineStoreConfig"]

T = TypeVar("T")
Type = Literal[
    "serving.online_store.dynamodb.OrderedDynamoDBOnlineStore", "tandem.serving.online_store.dynamodb.OrderedDynamoDBOnlineStore"
]
_ROWS, _BYTES = 25, 3_500_000
"""Of one transaction, which may have 100 actions and 4 MB: a row that another writer has just written costs the others of its transaction
a second try, so it is a quarter of them, and the checks are a tenth of what it costs."""
_PROJECT_TABLE = "tandem.state"
"""In the place of a view's name, in which there is no point: whose the project's rows are, and generation markers."""
_VIEW_STATE, _OWNER_STATE, _MARK = "tandem state", "tandem owner", "tandem mark"
_NO_MARK: Item = {"kept": {"N": "-1"}}
_IS_ROW = f"attribute_exists({EVENT})"


class OrderedDynamoDBOnlineStoreConfig(OrderedOnlineStoreConfig):
    """Configuration, as Feast's. Credentials come by AWS' own chain: environment, profile, or the role of the machine or pod."""

    type: Type = "tandem.serving.online_store.dynamodb.OrderedDynamoDBOnlineStore"
    region: str
    endpoint_url: str | None = None
    table_name_template: str = "{project}.{table_name}"
    tags: dict[str, str] | None = None
    consistent_reads: bool = True
    """Without it, reads cost half and may give the row of a moment before."""
    connect_timeout: float = Field(5.0, gt=0)
    read_timeout: float = Field(10.0, gt=0)
    total_max_retry_attempts: int | None = Field(None, ge=1)
    """How often a request is sent at most; by default 3 times."""
    retry_mode: Literal["legacy", "standard", "adaptive"] | None = None
    max_pool_connections: int = Field(10, ge=1)
    """As many requests of one call are under way at once."""
    retry_seconds: float = Field(30.0, ge=0)
    """How long a call goes on while others write the same rows, or a table has no capacity left."""

    @field_validator("endpoint_url")
    @classmethod
    def _has_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("it begins with http:// or https://, as in http://localhost:8000")
        return url

    @field_validator("table_name_template")
    @classmethod
    def _tells_apart(cls, template: str) -> str:
        """The tables of two projects, and of two views, are two."""
        try:
            made = {template.format(project=project, table_name=name) for project in "ab" for name in "cd"}
        except (AttributeError, IndexError, KeyError, ValueError):
            made = set()
        if len(made) < 4:
            raise ValueError("it has {project} and {table_name} in it, and nothing else in braces")
        return template

    def limit_waits(self, seconds: float) -> None:
        """The time of retries, and that of the last attempt, which may begin at its end, where the file sets none."""
        limits = {
            "connect_timeout": seconds / 4,
            "read_timeout": seconds / 4,
            "total_max_retry_attempts": 1,
            "retry_seconds": seconds / 2,
        }
        for name, limit in limits.items():
            if name not in self.model_fields_set:
                setattr(self, name, limit)


@dataclass(frozen=True)
class _Judged:
    """What rows of a view are judged by, as it was read, and what checks in a transaction that it still is."""

    applied: str | None
    covered: Covered | None
    checks: Sequence[Mapping[str, Any]]


Choose = Callable[[_Judged, Sequence[Item | None]], Sequence[Mapping[str, Any] | None]]
"""Of what rows are judged by and the stored items of some ids: per id what to do, an action without its condition, or nothing."""


class OrderedDynamoDBOnlineStore(OrderedOnlineStore):
    """Feast's tables (one per view, an item per key), with the order, the key and the packed row in attributes of the same item.

    Some rows are one transaction: what is stored of them is read, :func:`row_wins` decides, and each winner is put on condition that its
    stored order is still the one that was read, together with a check that what they were judged by is.
    """

    keeps_packed = True
    reads_views_at_once = True

    @contextlib.contextmanager
    def _linked(self, config: RepoConfig) -> Iterator[Link]:
        """This process' client: it must not cross a fork. What fails is a StoreError."""
        held: tuple[int, Link] | None = self.__dict__.get("_held")
        try:
            if held is None or held[0] != os.getpid():
                self.__dict__["_held"] = held = (os.getpid(), Link(config.online_store))
            yield held[1]
        except (BotoCoreError, ClientError, ForeignAnswerError, ThrottledError) as e:
            raise unreachable(self._where(config), e, fix_of(e), refuses(e)) from e

    @staticmethod
    def _where(config: RepoConfig) -> str:
        return f"dynamodb {config.online_store.endpoint_url or config.online_store.region}"

    @staticmethod
    def _table(config: RepoConfig, name: str) -> str:
        table: str = config.online_store.table_name_template.format(project=config.project, table_name=name)
        return table

    def _view_state(self, link: Link, config: RepoConfig, view: str) -> State:
        return State(link, self._table(config, view), _VIEW_STATE)

    def _owner_state(self, link: Link, config: RepoConfig) -> State:
        return State(link, self._table(config, _PROJECT_TABLE), _OWNER_STATE)

    def _read(
        self, link: Link, config: RepoConfig, view: str, ids: Sequence[str] = (), decided: bool = False, until: float | None = None
    ) -> tuple[_Judged, list[Item | None]]:
        """What rows of a view are judged by, and what is stored of these ids, as :attr:`writer`. Raises OwnerError, and StoreError for a
        table of another view."""
        table = self._table(config, view)
        states = [State(link, table, _VIEW_STATE), *([] if self.writer is None else [self._owner_state(link, config)])]
        held, found = read_open(link, states, [(table, i) for i in ids], (EVENT, ORDER), decided, until)
        if self.writer is not None:
            check_owner(config.project, held[1].values.get("owner"), self.writer)
        _check_view(config, view, held[0].values)
        turn = next(link.turns)
        judged = _Judged(
            held[0].values.get("fingerprint"),
            _covered(held[0].values),
            [state.check(copy, turn) for state, copy in zip(states, held)],
        )
        return judged, [found.get((table, i)) for i in ids]

    def _settle(self, link: Link, config: RepoConfig, view: str, ids: Sequence[str], choose: Choose) -> int:
        """Do what is chosen for these ids of a view, in one transaction with the check of what it was chosen by; the number of actions.
        Where that or a row has changed meanwhile, it is read and chosen anew."""
        table = self._table(config, view)
        until = link.until()
        for n, _ in enumerate(link.tries(until)):
            judged, stored = self._read(link, config, view, ids, n > 0, until)
            actions = [
                {kind: {"TableName": table, **given, **as_read(item)}}
                for item, chosen in zip(stored, choose(judged, stored))
                for kind, given in (chosen or {}).items()
            ]
            if not actions or link.transact([*actions, *judged.checks], until):
                return len(actions)
        raise AssertionError("unreachable")

    def too_large(self, config: RepoConfig, table: FeatureView, rows: Rows) -> npt.NDArray[np.bool_]:
        """Those whose item would be larger than 400 KB, without its packed copy."""
        return sizes_of(rows, [f.name for f in table.features]) > ITEM_BYTES

    def write_winners(self, config: RepoConfig, table: FeatureView, rows: Rows) -> int:
        def write(part: Sequence[tuple[Order, Item]]) -> int:
            def winners(by: _Judged, stored: Sequence[Item | None]) -> Sequence[Mapping[str, Any] | None]:
                rows.check_applied(table.name, by.applied)  # all of them: of refused ones none is written, whichever part they are in
                return [
                    {"Put": {"Item": item}}
                    if row_wins(order, None if old is None else order_of(old), by.applied, by.covered, rows.upto_us)
                    else None
                    for (order, item), old in zip(part, stored)
                ]

            return self._settle(link, config, table.name, [item[ID]["S"] for _, item in part], winners)

        self._written(config).add(self._table(config, table.name))
        with self._linked(config) as link:
            return sum(link.at_once(write, list(_parts(items_of(rows, [f.name for f in table.features])))))

    def read_stored(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> list[StoredRow | None]:
        with self._linked(config) as link:
            return self._stored(link, config, ColumnRead(table, keys, tuple(names)), link.until())

    def _stored(self, link: Link, config: RepoConfig, read: ColumnRead, until: float) -> list[StoredRow | None]:
        places = [(self._table(config, read.table.name), id_of(key)) for key in read.keys]
        found = link.get(places, (EVENT, ORDER, VALUES), config.online_store.consistent_reads, until)
        rows = {place: stored_row(item, read.names) for place, item in found.items()}
        return [rows.get(place) for place in places]

    def read_columns(self, config: RepoConfig, reads: Sequence[ColumnRead]) -> list[StoredColumns]:
        """The packed rows of all views together, a hundred per request."""
        if not config.online_store.packed:
            return super().read_columns(config, reads)
        places = [[(self._table(config, read.table.name), id_of(key)) for key in read.keys] for read in reads]
        with self._linked(config) as link:
            until = link.until()
            found = link.get((one for some in places for one in some), (PACKED_COPY,), config.online_store.consistent_reads, until)
            return [self._columns_of(link, config, read, [found.get(at) for at in some], until) for read, some in zip(reads, places)]

    def _columns_of(self, link: Link, config: RepoConfig, read: ColumnRead, items: Sequence[Item | None], until: float) -> StoredColumns:
        if all(item is None or PACKED_COPY in item for item in items):
            cells = [None if item is None else item[PACKED_COPY]["B"] for item in items]
            if (packed := PackedRows.read(read.layout, cells, read.names)) is not None:
                return PackedColumns(packed, read.names)
        return by_columns(self._stored(link, config, read, until), len(read.names))

    def apply_fingerprint(self, config: RepoConfig, view: str, fingerprint: str) -> None:
        def applied(values: Mapping[str, str]) -> Mapping[str, str]:
            _check_view(config, view, values)
            same = values.get("fingerprint") == fingerprint
            return values if same else {"project": config.project, "view": view, "fingerprint": fingerprint}

        with self._linked(config) as link:
            self._change(link, config, self._view_state(link, config, view), applied)

    def applied_fingerprint(self, config: RepoConfig, view: str) -> str | None:
        with self._linked(config) as link:
            return self._view_state(link, config, view).read().values.get("fingerprint")

    def cover(self, config: RepoConfig, view: str, covered: Covered) -> None:
        kept = {"project": config.project, "view": view, "stamp": str(covered.stamp), "upto_us": str(covered.upto_us)}

        def covering(values: Mapping[str, str]) -> Mapping[str, str]:
            _check_view(config, view, values)
            return {**values, **kept}

        def owned() -> list[Mapping[str, Any]]:
            if self.writer is None:
                return []
            (held,), _ = read_open(link, [owner := self._owner_state(link, config)])
            check_owner(config.project, held.values.get("owner"), self.writer)
            return [owner.check(held, next(link.turns))]

        with self._linked(config) as link:
            self._change(link, config, self._view_state(link, config, view), covering, owned)

    def covered(self, config: RepoConfig, view: str) -> Covered | None:
        with self._linked(config) as link:
            return _covered(self._view_state(link, config, view).read().values)

    def drop_superseded(self, config: RepoConfig, table: FeatureView, start_us: int, covered: Covered, count_only: bool = False) -> int:
        def gone(by: _Judged, stored: Sequence[Item | None]) -> list[Mapping[str, Any] | None]:
            return [{"Delete": {"Key": {ID: item[ID]}}} if item is not None and superseded(by, order_of(item)) else None for item in stored]

        def superseded(by: _Judged, order: Order) -> bool:
            at, _, fingerprint, stamp = order
            if covered.since == 0 and by.applied is not None and fingerprint != by.applied:
                return True
            return start_us <= at <= covered.upto_us and covered.since <= stamp < covered.stamp

        number = 0
        with self._linked(config) as link:
            judged, _ = self._read(link, config, table.name)
            drop = partial(self._settle, link, config, table.name, choose=gone)
            for page in link.scan(self._table(config, table.name), (ID, EVENT, ORDER), _IS_ROW):
                ids = [item[ID]["S"] for item in page if superseded(judged, order_of(item))]
                number += len(ids) if count_only else sum(link.at_once(drop, list(cut(ids, _ROWS))))
        return number

    def stored_keys(self, config: RepoConfig, table: FeatureView, holding: bytes = b"") -> Iterator[bytes]:
        """Of rows that stock Feast wrote, only the hash of their key is there: where there are such, it is a StoreError in the end, as they
        may be among those that are looked for."""
        name, untold = self._table(config, table.name), 0
        with self._linked(config) as link:
            for page in link.scan(name, (KEY,), _IS_ROW):
                untold += sum(KEY not in item for item in page)
                yield from (key for key in (item[KEY]["B"] for item in page if KEY in item) if holding in key)
        if untold:
            raise StoreError(
                f"online store {self._where(config)}: {untold} rows of table {name!r} were written by Feast's own store, with the hash of"
                " their key alone, so nobody can tell whose they are; write them anew ('tandem materialize') or delete those items by hand"
            )

    def delete_keys(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> None:
        with self._linked(config) as link:
            link.delete(self._table(config, table.name), map(id_of, keys))

    def compact(self, config: RepoConfig, tables: Sequence[FeatureView]) -> Sequence[str] | None:
        """Nothing; lines on tables whose point-in-time recovery keeps what was deleted."""
        lines = []
        for name in (self._table(config, table.name) for table in tables):
            kept = "it keeps what was deleted for up to 35 days, and backups longer: delete or expire those"
            try:
                with self._linked(config) as link:
                    found = link.ask(link.client.describe_continuous_backups, {"TableName": name})["ContinuousBackupsDescription"]
                recovery = found.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus")
                if recovery == "ENABLED":
                    lines.append(f"dynamodb table {name}: point-in-time recovery is on; {kept}")
            except StoreError as error:
                if not is_missing(error.__cause__):  # type: ignore[arg-type]
                    lines.append(f"dynamodb table {name}: whether point-in-time recovery is on cannot be asked ({error.__cause__}); {kept}")
        return lines or None

    def mark_generation(self, config: RepoConfig, name: str, value: int, at_least: int | None = None) -> bool:
        """Tables are lost and restored one by one, so each view's that this process has written has a copy of the marker beside its rows;
        which tables have one stands in that of the project's table."""
        marks, views = (self._table(config, _PROJECT_TABLE), f"{_MARK} {name}"), set(self._written(config))
        with self._linked(config) as link:
            if at_least is not None:
                before = link.get([marks]).get(marks)
                if before is None or int(before["kept"]["N"]) < at_least:
                    return False
                marked = set(before.get("tables", {}).get("SS", ()))
                found = link.get([(table, marks[1]) for table in marked])
                if any(int(found.get((table, marks[1]), _NO_MARK)["kept"]["N"]) < at_least for table in marked):
                    return False
                views |= marked
            there = [table for table in link.at_once(partial(_marked, link, marks[1], value), sorted(views)) if table]
            if len(there) < len(views):
                if at_least is not None:
                    return False
                self._written(config).intersection_update(there)  # what is lost is told once
            tables = {"tables": {"SS": there}} if there else {}
            condition: Mapping[str, Any] = {}
            if at_least is not None:
                condition = {"ConditionExpression": "kept >= :least", "ExpressionAttributeValues": {":least": {"N": str(at_least)}}}
            item = {ID: {"S": marks[1]}, "kept": {"N": str(value)}, **tables}
            try:
                self._in_table(link, config, marks[0], partial(link.put, marks[0], item, condition))
            except link.errors.ConditionalCheckFailedException:
                return False
        return True

    def _written(self, config: RepoConfig) -> set[str]:
        """The tables of the views of a project that this object has written."""
        held: dict[str, set[str]] = self.__dict__.setdefault("_tables_written", {})
        return held.setdefault(config.project, set())

    def claim(self, config: RepoConfig, owner: str, take: bool = False) -> str:
        def claimed(values: Mapping[str, str]) -> Mapping[str, str]:
            return {"owner": owner} if take or "owner" not in values else values

        with self._linked(config) as link:
            return self._change(link, config, self._owner_state(link, config), claimed)["owner"]

    def disclaim(self, config: RepoConfig, owner: str) -> None:
        with self._linked(config) as link:
            state = self._owner_state(link, config)
            if state.read().values.get("owner") == owner:
                state.change(lambda values: {} if values.get("owner") == owner else values)

    def owner(self, config: RepoConfig) -> str | None:
        with self._linked(config) as link:
            return self._owner_state(link, config).read().values.get("owner")

    def reach(self, config: RepoConfig) -> None:
        self.owner(config)

    @classmethod
    def _change(
        cls,
        link: Link,
        config: RepoConfig,
        state: State,
        make: Callable[[Mapping[str, str]], Mapping[str, str]],
        also: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> Mapping[str, str]:
        return cls._in_table(link, config, state.table, partial(state.change, make, also))

    @staticmethod
    def _in_table(link: Link, config: RepoConfig, table: str, do: Callable[[], T]) -> T:
        """What ``do`` gives, in a table that is made if it is not there."""
        try:
            return do()
        except ClientError as error:
            if not is_missing(error):
                raise
        link.make(table, config.online_store.tags)
        return do()

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Feast's ``apply``: tables for the views that are there, none for those that are gone."""
        with self._linked(config) as link:
            for name in [_PROJECT_TABLE, *(table.name for table in tables_to_keep)]:
                if link.status(self._table(config, name)) != "ACTIVE":
                    link.make(self._table(config, name), config.online_store.tags)
            for view in (table.name for table in tables_to_delete):
                with contextlib.suppress(_OthersTable):  # another's table is not ours to drop
                    _check_view(config, view, self._view_state(link, config, view).read().values)
                    link.drop(self._table(config, view))
                    self._written(config).discard(self._table(config, view))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Take the tables of these views away, and that of the project's marks."""
        self.update(config, tables, [], entities, [], False)
        with self._linked(config) as link:
            link.drop(self._table(config, _PROJECT_TABLE))


class _OthersTable(StoreError):
    """A table is another view's."""


def _check_view(config: RepoConfig, view: str, values: Mapping[str, str]) -> None:
    """Raises StoreError where a table is that of another view: each would read the other's rows."""
    found = values.get("project", config.project), values.get("view", view)
    if found != (config.project, view):
        raise _OthersTable(
            f"view {view!r} of project {config.project!r} and view {found[1]!r} of project {found[0]!r} have the same table in this online"
            " store; correct table_name_template in feature_store.yaml, or give one of them another name"
        )


def _marked(link: Link, marker: str, value: int, table: str) -> str:
    """The table, with the marker in it; '' where it is not there."""
    try:
        link.put(table, {ID: {"S": marker}, "kept": {"N": str(value)}}, {})
    except link.errors.ResourceNotFoundException:
        return ""
    return table


def _covered(values: Mapping[str, str]) -> Covered | None:
    return Covered(int(values["stamp"]), int(values["upto_us"])) if "stamp" in values else None


def _parts(rows: Iterable[tuple[Order, Item, int]]) -> Iterator[Sequence[tuple[Order, Item]]]:
    """Pieces of a transaction's size."""
    part: list[tuple[Order, Item]] = []
    size = 0
    for order, item, more in rows:
        if part and (len(part) == _ROWS or size + more > _BYTES):
            yield part
            part, size = [], 0
        part.append((order, item))
        size += more
    if part:
        yield part
