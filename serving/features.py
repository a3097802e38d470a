"""Online features: the registry as an immutable catalog, and rows read through the store's own reader.

Statuses follow Feast: PRESENT, NULL (the row is there, the value is null), NOT_FOUND (no row, or a row from before the
feature existed), OUTSIDE_MAX_AGE (the row is older than its view's TTL; its values are withheld).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from serving.catalog import Catalog, View, entity_key, some_of
from serving.feast_mistakes import NO_ONLINE_STORE, mistake_in
from serving.online_store.base import OrderedOnlineStore, OrderedOnlineStoreConfig
from serving.online_store.store_columns import SplitQuestion
from serving.projections import FeatureSet
from serving.protocol import RequestField, checked_column
from serving.read_plan import NOT_FOUND, NULL, OUTSIDE_MAX_AGE, PRESENT, STATUSES, Begun, ReadPlan, ViewRows
from serving.registry_place import feast_settings, with_absolute_registry
from serving.request_errors import InvalidRequestError
from transforms.errors import ConfigError, StoreError
from transforms.instants import micros_of
from transforms.instants import now_us as wall_us

__all__ = [
    "NOT_FOUND",
    "NULL",
    "OUTSIDE_MAX_AGE",
    "PRESENT",
    "STATUSES",
    "Catalog",
    "OnlineFeatures",
    "View",
    "ViewRows",
    "load_repo_config",
]

if TYPE_CHECKING:
    from serving.online_store.redis_loop import Answers, RedisLoop

T = TypeVar("T")
log = logging.getLogger("tandem.serving")

_MOST_PLANS = 256
"""Sets of features whose plans are kept: a request may ask for any."""
_MOST_ASIDES = 20


def load_repo_config(repo: Path, timeout_seconds: float = 5.0) -> RepoConfig:
    """The Feast configuration of ``<repo>/feature_store.yaml``, without its offline store and batch engine.

    Serving reads neither, and their classes would drag their dependencies in (Beam among them). ``${VARIABLES}`` are expanded.
    The store's own time limits are ``timeout_seconds`` unless the file sets them.
    """
    path = repo / "feature_store.yaml"
    raw = {k: v for k, v in feast_settings(repo).items() if k not in ("offline_store", "batch_engine", "feature_server")}
    try:
        # A string, not a mapping: Feast then does not import the class.
        config = with_absolute_registry(RepoConfig(**raw, offline_store="dask", repo_path=repo), repo)
        _limit_waits(config.online_store, timeout_seconds)
    except Exception as e:
        raise ConfigError(f"{path}: {mistake_in(e)}; correct it") from e
    return config


def _limit_waits(store: Any, seconds: float) -> None:
    if isinstance(store, OrderedOnlineStoreConfig):
        store.limit_waits(seconds)
    elif store is not None and store.type == "redis":  # Feast's own
        from serving.online_store.redis import limited

        store.connection_string = limited(store.connection_string, seconds)


class OnlineFeatures:
    """Reads features for entities. The catalog is replaced whole by :meth:`refresh`; reads are safe from many threads."""

    def __init__(self, repo: Path, now_us: Callable[[], int] | None = None, timeout_seconds: float = 5.0) -> None:
        """``now_us`` is the clock; by default the online store's own ``as_of`` where its configuration has one, else the wall clock."""
        self._repo = repo
        self.config = load_repo_config(repo, timeout_seconds)
        own = self.config.online_store
        as_of = own.as_of if isinstance(own, OrderedOnlineStoreConfig) else None
        default = wall_us if as_of is None else (lambda: micros_of(as_of))
        self.now_us = now_us or default
        self._lock = threading.Lock()
        self._timeout_seconds = timeout_seconds
        self._loop: RedisLoop | None = None
        self._loops: dict[str, RedisLoop] = {}
        self._feast: FeatureStore | None = None
        self._store: OnlineStore | None = None
        self._catalog: Catalog | None = None
        self._read = b""
        """What the registry's file held when it was compiled last."""
        self._plans: tuple[Catalog | None, dict[Any, ReadPlan]] = (None, {})
        self._asides: set[str] = set()
        """What was told of reads that no answer needs: each once."""
        self.problem = "the feature registry has not been read yet"
        """Why there is no catalog, or the last refresh failed; empty when all is well."""
        self.store_problem = ""
        """Why the online store could not be read, until :meth:`connect` finds all of it readable again; empty when all is well."""

    @property
    def catalog(self) -> Catalog:
        """The catalog of the last good refresh; StoreError while there has been none."""
        if self._catalog is None:
            raise StoreError(f"{self.problem}; run 'feast apply' in the feature repository")
        return self._catalog

    @property
    def outlives_registry(self) -> bool:
        """Whether a registry that cannot be read is no reason to stop: it is a service of its own, and was read before."""
        return self._catalog is not None and self.config.registry.registry_type != "file"

    def refresh(self) -> None:
        """Look at the registry again. A registry that cannot be read leaves the last catalog in place and sets ``problem``."""
        try:
            path = self.config.registry.path
            if self.config.registry.registry_type == "file" and "://" not in path and not (self._repo / path).exists():
                raise FileNotFoundError(path)  # Feast would make an empty one
            if self._feast is None:
                self._feast = FeatureStore(repo_path=str(self._repo), config=self.config)
            self._feast.refresh_registry()
            if self.config.registry.registry_type == "file":  # refreshing read all of it, so what it holds is cheap to compare
                read = self._feast.registry.proto().SerializeToString(deterministic=True)
                if read == self._read and not self.problem:
                    return
                self._read = read
            found = Catalog.of(self._feast)
            while found != self._catalog and self.config.registry.registry_type != "file":
                # Feast reads a database table by table: what an apply changed in between is a registry that never was.
                found, before = Catalog.of(self._feast), found
                if found == before:
                    break
            if found == self._catalog:
                found = self._catalog  # so that plans made of it stay
        except Exception as e:
            if not self.problem:
                log.warning("feature registry: cannot be read", exc_info=e)
            self.problem = f"the feature registry cannot be read ({type(e).__name__})"
            self._feast = None
            return
        self.problem = "" if found.views else "the feature registry has no feature views"
        if found.views:
            self._catalog = found

    def connect(self) -> None:
        """Open the online store and read one row of each view, so that the first request finds warm connections. Raises StoreError."""
        for view in self.catalog.views.values():
            if not view.unaskable:
                self._rows(view, [entity_key(view, None)], list(view.types)[:1])
        if self.store_problem:
            log.warning("online store: readable again")
            self.store_problem = ""

    def read(
        self, features: FeatureSet, entities: Mapping[str, list[Any]], rows: int, check: Callable[[], None] = lambda: None
    ) -> dict[str, ViewRows]:
        """The features for N = ``rows`` entities, by the names of their views in ``features``. Equal entities are read once.

        ``entities`` holds a list of N values for each column that is a key of the views. ``check`` is called before each read of the store,
        of some thousand entities; what it raises ends the work. Raises StoreError when the store fails.
        """
        return self._plan(features).read(self._asked, entities, rows, self.now_us(), check)

    def attend(self) -> None:
        """Read small requests on the running event loop from now on, where the online store can be read so: :meth:`read_soon`."""
        self._loop = self._new_loop("")
        self._loop.connect()

    def _new_loop(self, at: str) -> RedisLoop:
        from serving.online_store.redis_loop import RedisLoop

        def opened() -> socket.socket | None:
            # A store of another package need not know of parts.
            given = (at,) if at else ()
            return self._asked(lambda store: store.open_socket(self.config, *given) if isinstance(store, OrderedOnlineStore) else None)

        return RedisLoop(opened, self._timeout_seconds)

    def unattend(self) -> None:
        """The end of :meth:`attend`."""
        for loop in (*self._loops.values(), *([] if self._loop is None else [self._loop])):
            loop.close()
        self._loop, self._loops = None, {}

    def read_soon(self, features: FeatureSet, entities: Mapping[str, list[Any]], rows: int) -> Awaitable[dict[str, ViewRows] | None] | None:
        """As :meth:`read`, on the event loop of :meth:`attend`; None, or a result that is None: it has to be :meth:`read`, on a thread."""
        store = self._store
        if self._loop is None or store is None:
            return None
        begun = self._plan(features).begin(store, entities, rows)
        if begun is None:
            return None
        now = self.now_us()
        question = begun.question
        answers = self._ask_parts(question) if isinstance(question, SplitQuestion) else self._loop.ask(question.data, question.count)
        return None if answers is None else _rows_of(begun, answers, now)

    def _ask_parts(self, question: SplitQuestion) -> Awaitable[Answers] | None:
        """Each server over its own connection; None while one of them has none."""
        loops = []
        for part in question.parts:
            if part.at not in self._loops:
                self._loops[part.at] = self._new_loop(part.at)
            loops.append(self._loops[part.at])
        asked = [loop.ask(part.data, len(part.places)) for loop, part in zip(loops, question.parts)]
        waiting = [answers for answers in asked if answers is not None]
        if len(waiting) < len(asked):
            for answers in waiting:
                answers.cancel()
            return None
        return _together(waiting)

    def _plan(self, features: FeatureSet) -> ReadPlan:
        catalog, plans = self.catalog, self._plans
        if plans[0] is not catalog:
            plans = self._plans = (catalog, {})
        used = tuple((name, p.view, *sorted(p.join_keys.items())) for name, p in features.projections.items())
        known = plans[1].get((features.pairs, used))
        if known is None:
            if len(plans[1]) >= _MOST_PLANS:
                plans[1].clear()
            known = plans[1][features.pairs, used] = ReadPlan(catalog, features, self.config, *self._asked(self._ways))
        return known

    def _ways(self, store: OnlineStore) -> tuple[bytes | None, bool]:
        """(what the store's keys have behind Feast's own, None where its class makes them in a way of its own; whether it reads several
        views in one round trip)."""
        if not isinstance(store, OrderedOnlineStore):
            return None, False
        plain = type(store).entity_key is OrderedOnlineStore.entity_key
        return store.key_suffix(self.config) if plain else None, store.reads_views_at_once

    def _rows(self, view: View, keys: list[EntityKey], features: list[str]) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        # Our own stores withhold what is older than the TTL from Feast's readers; here the age itself is wanted.
        return self._asked(
            lambda store: (
                store.online_read_stored(self.config, view.feast, keys, features)
                if isinstance(store, OrderedOnlineStore)
                else store.online_read(self.config, view.feast, keys, features)
            )
        )

    def applied_fingerprint(self, view: str) -> str | None:
        """The fingerprint whose rows the online store takes for the view; None if it takes any. Raises StoreError."""
        return self._asked(
            lambda store: store.applied_fingerprint(self.config, view) if isinstance(store, OrderedOnlineStore) else None, aside=True
        )

    def materialized_beyond(self, now: int) -> dict[str, int]:
        """The views whose rows were materialized beyond ``now`` (us), each with up to when. Raises StoreError."""

        def ends(store: OnlineStore) -> dict[str, int]:
            if not isinstance(store, OrderedOnlineStore):
                return {}
            covered = {name: store.covered(self.config, name) for name in self.catalog.views}
            return {name: found.upto_us for name, found in covered.items() if found is not None and found.upto_us > now}

        return self._asked(ends, aside=True)

    def _asked(self, question: Callable[[OnlineStore], T], aside: bool = False) -> T:
        """The store's answer. Raises StoreError; then it is a ``store_problem``, unless no answer to a request needs it (``aside``): a user
        who may read rows need not be able to read more."""
        with self._lock:
            if self._store is None:
                if self.config.online_store is None:
                    raise StoreError(NO_ONLINE_STORE)
                self._store = get_online_store_from_config(self.config.online_store)
                if isinstance(self._store, OrderedOnlineStore):
                    self._store.clock = lambda: self.now_us()
            store = self._store
        try:
            return question(store)
        except Exception as e:  # whatever the store's client raises
            if aside:
                line = " ".join(str(e).split()) or type(e).__name__
                if line not in self._asides and len(self._asides) < _MOST_ASIDES:
                    self._asides.add(line)
                    log.warning("online store: the applied graphs and covered times of its views cannot be read: %s", line)
                raise StoreError("the applied graphs and covered times of the online store cannot be read") from e
            with self._lock:
                if self._store is store:
                    self._store = None  # a broken connection is not kept: the next read opens a new one
            told = isinstance(e, StoreError) and e.__cause__ is None  # ours, and of no place on this machine
            problem = str(e) if told else f"the online store cannot be read ({type(e.__cause__ or e).__name__})"
            # While a store stays away every request fails: it is logged once, not a thousand times a second; with a trace only where
            # nobody translated what the store's client raised.
            if problem == self.store_problem:
                log.debug("%s", problem)
            elif isinstance(e, StoreError):
                log.warning("online store: a read failed: %s", " ".join(str(e).split()))
            else:
                log.warning("online store: a read failed", exc_info=e)
            self.store_problem = problem
            raise StoreError(f"{problem}; try again") from e


async def _together(waiting: Sequence[Awaitable[Answers]]) -> Answers:
    return [answer for some in await asyncio.gather(*waiting) for answer in some]


async def _rows_of(begun: Begun, answers: Awaitable[Answers], now: int) -> dict[str, ViewRows] | None:
    try:
        return begun.rows(await answers, now)
    except OSError:  # the connection broke; the store's own client tries again
        return None


def checked_entities(fields: Sequence[RequestField], entities: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The entities of a request that ``fields`` need, as values of their types. As in Feast's server, other keys are no mistake, and an
    integer for a string key is its digits."""
    expected = {f.name for f in fields}
    if missing := expected - entities.keys():
        raise InvalidRequestError(f"entities lack {some_of(missing)}; these features need {some_of(expected)}")
    return {f.name: checked_column(_as_keys(entities[f.name], f), f, f"entities.{f.name}[{{i}}]") for f in fields}


def _as_keys(values: list[Any], field: RequestField) -> list[Any]:
    return [str(v) if type(v) is int else v for v in values] if field.dtype == "string" else values
