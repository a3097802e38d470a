"""Reading the features of a service: compiled once per set of features, then columns from the store to the answer.

Statuses follow Feast: PRESENT, NULL (the row is there, its value is null), NOT_FOUND (no row, or a row from before the
feature existed), OUTSIDE_MAX_AGE (the row is older than its view's TTL; its values are withheld).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from feast import RepoConfig
from feast.infra.online_stores.online_store import OnlineStore

from serving.catalog import Catalog, View, entity_key
from serving.online_store.base import ColumnRead, OrderedOnlineStore, StoredColumns
from serving.online_store.decoding import Cell
from serving.online_store.keys import key_packer
from serving.online_store.packed import layout_of
from serving.online_store.packed_rows import PackedRows
from serving.online_store.store_columns import PackedColumns, Question, SplitQuestion
from serving.packed_view_rows import PackedViewRows
from serving.projections import FeatureSet
from serving.view_rows import NOT_FOUND, NULL, OUTSIDE_MAX_AGE, PRESENT, STATUSES, ViewPlan, ViewRows, rows_of
from transforms.definitions import FINGERPRINT, REVISION
from transforms.instants import micros_of

__all__ = ["NOT_FOUND", "NULL", "OUTSIDE_MAX_AGE", "PRESENT", "STATUSES", "ReadPlan", "ViewRows"]

Entities = Mapping[str, Sequence[Any]]
Ask = Callable[[Callable[[OnlineStore], Any]], Any]
"""Puts a question to the store, and turns whatever its client raises into a StoreError."""

_AT_ONCE = 2_000
"""Entities of one read of the store: the time limit is looked at between reads."""


@dataclass(frozen=True)
class _Keys:
    """The entities of a request in a view: each once, and which of them each row asks for (None: each row its own)."""

    distinct: Sequence[Any]
    inverse: npt.NDArray[np.int64] | None


_Read = tuple[ViewPlan, _Keys, Sequence[bytes] | None]


@dataclass(frozen=True)
class Begun:
    """A read of packed rows that waits for its answers."""

    reads: list[_Read]
    question: Question | SplitQuestion

    def rows(self, answers: Sequence[list[bytes | None]], now: int) -> dict[str, ViewRows] | None:
        """As :meth:`ReadPlan.read`; None where some row has no packed copy."""
        out: dict[str, ViewRows] = {}
        for (plan, keys, _), rows in zip(self.reads, self.question.rows(answers)):
            if rows is None:
                return None
            out[plan.view.name] = PackedViewRows(plan, rows, keys.inverse, now)
        return out


class ReadPlan:
    """How the features of one :class:`FeatureSet` are read from one catalog. Immutable; safe from many threads."""

    def __init__(self, catalog: Catalog, features: FeatureSet, config: RepoConfig, suffix: bytes | None, at_once: bool) -> None:
        """``suffix``: what the store's keys have behind Feast's serialization of an entity key; None: they are asked of the store.
        ``at_once``: whether the store reads several views in one round trip; else each is asked for by itself.

        Raises StoreError for a view that the registry does not have (any more).
        """
        wanted: dict[str, list[str]] = {}
        for name, feature in features.pairs:
            wanted.setdefault(name, []).append(feature)
        self._config = config
        self._at_once = at_once
        self._places: list[tuple[ViewPlan, tuple[str, ...], Any]] = []
        """Per view its plan, the request's columns that are its keys, and what views have in common whose stored keys are equal."""
        for name, view in catalog.used(features).items():
            own = [n for n in (FINGERPRINT, REVISION) if n in view.types and n not in wanted[name]]
            pack = (
                None
                if suffix is None or config.entity_key_serialization_version != 3
                else key_packer(view.stored_keys, list(view.keys.values()), suffix)
            )
            names, layout = (*wanted[name], *own), layout_of(view.feast)
            plan = ViewPlan(view, tuple(wanted[name]), names, features.projections.get(name), pack, layout)
            asked = tuple(view.keys)
            self._places.append((plan, asked, (asked, view.stored_keys, tuple(view.keys.values()))))

    def read(self, ask: Ask, entities: Entities, n: int, now: int, check: Callable[[], None]) -> dict[str, ViewRows]:
        """The features of N entities as of ``now`` (us), by the names of their views. Equal entities are read once.

        ``check`` is called before each read of the store, of some thousand entities; what it raises ends the work. Raises StoreError.
        """
        reads = self._reads(entities, n)
        return {
            plan.view.name: _answered(plan, stored, keys.inverse, now)
            for (plan, keys, _), stored in zip(reads, self._stored(ask, reads, check))
        }

    def begin(self, store: OnlineStore, entities: Entities, n: int) -> Begun | None:
        """As :meth:`read`, by whoever puts one question to the store himself, on an event loop, and hands on the answers; None where that
        is not all."""
        if not self._at_once or n > _AT_ONCE or not isinstance(store, OrderedOnlineStore):
            return None
        reads = self._reads(entities, n)
        asked = [ColumnRead(plan.view.feast, made, plan.names, plan.layout) for plan, _, made in reads if made is not None]
        question = store.question(self._config, asked) if len(asked) == len(reads) else None
        return None if question is None else Begun(reads, question)

    def _reads(self, entities: Entities, n: int) -> list[_Read]:
        of_columns: dict[tuple[str, ...], _Keys] = {}
        packed: dict[Any, Sequence[bytes]] = {}
        reads: list[_Read] = []
        for plan, asked, place in self._places:
            keys = of_columns.get(asked)
            if keys is None:
                keys = of_columns[asked] = _distinct(asked, entities, n)
            made = None
            if plan.keys is not None:
                # Views with equal keys get the same list: a store may then ask for all of them at once.
                made = packed.get(place)
                if made is None:
                    made = packed[place] = plan.keys(keys.distinct)
            reads.append((plan, keys, made))
        return reads

    def _stored(self, ask: Ask, reads: list[_Read], check: Callable[[], None]) -> list[StoredColumns]:
        parts: list[list[StoredColumns]] = [[] for _ in reads]
        for start in range(0, max((len(keys.distinct) for _, keys, _ in reads), default=0), _AT_ONCE):
            some = [i for i, (_, keys, _) in enumerate(reads) if start < len(keys.distinct)]
            for together in [some] if self._at_once else [[i] for i in some]:
                check()
                question = partial(self._asked, reads=[reads[i] for i in together], start=start)
                for i, columns in zip(together, ask(question)):
                    parts[i].append(columns)
        return [_together(p) for p in parts]

    def _asked(self, store: OnlineStore, reads: list[_Read], start: int) -> list[StoredColumns]:
        stop, config = start + _AT_ONCE, self._config
        cut: dict[int, Sequence[bytes]] = {}
        if isinstance(store, OrderedOnlineStore):
            asked = []
            for plan, keys, made in reads:
                if made is None:
                    keys_of = (entity_key(plan.view, _tuple(plan.view, k)) for k in keys.distinct[start:stop])
                    own: Sequence[bytes] = [store.entity_key(config, key) for key in keys_of]
                elif len(made) <= _AT_ONCE:
                    own = made
                else:
                    own = cut.get(id(made)) or cut.setdefault(id(made), made[start:stop])
                asked.append(ColumnRead(plan.view.feast, own, plan.names, plan.layout))
            return store.read_columns(config, asked)
        out = []
        for plan, keys, _ in reads:  # Feast's own stores, and other people's
            protos = [entity_key(plan.view, _tuple(plan.view, k)) for k in keys.distinct[start:stop]]
            rows = store.online_read(config, plan.view.feast, protos, list(plan.names))
            found = np.array([values is not None for _, values in rows], np.bool_)
            times = np.array([micros_of(t) if t is not None and ok else 0 for (t, _), ok in zip(rows, found)], np.int64)
            cells: list[list[Cell]] = [[None if values is None else values.get(name) for _, values in rows] for name in plan.names]
            out.append(StoredColumns(times, found, cells))
        return out


def _answered(plan: ViewPlan, stored: StoredColumns, inverse: npt.NDArray[np.int64] | None, now: int) -> ViewRows:
    if isinstance(stored, PackedColumns):
        return PackedViewRows(plan, stored.rows, inverse, now)
    return rows_of(plan, stored, inverse, now)


def _tuple(view: View, key: Any) -> Sequence[Any]:
    return (key,) if len(view.keys) == 1 else key


def _distinct(columns: tuple[str, ...], entities: Entities, n: int) -> _Keys:
    asked: Sequence[Any] = entities[columns[0]] if len(columns) == 1 else _tuples([entities[c] for c in columns], n)
    if len(asked) == 1 or len(set(asked)) == len(asked):
        return _Keys(asked, None)
    place = {key: i for i, key in enumerate(dict.fromkeys(asked))}
    return _Keys(list(place), np.fromiter(map(place.__getitem__, asked), np.int64, len(asked)))


def _tuples(columns: list[Sequence[Any]], n: int) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * n


def _together(parts: list[StoredColumns]) -> StoredColumns:
    if len(parts) == 1:
        return parts[0]
    packed = [p for p in parts if isinstance(p, PackedColumns)]
    if len(packed) == len(parts):
        return PackedColumns(PackedRows.together([p.rows for p in packed]), packed[0].names)
    return StoredColumns(
        np.concatenate([p.event_us for p in parts]),
        np.concatenate([p.found for p in parts]),
        [[c for cells in column for c in cells] for column in zip(*(p.cells for p in parts))],
    )
