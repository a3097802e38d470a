"""``tandem materialize``: what the batch runs have, into the online store, so that both say the same of every key.

Per key the latest row that counts offline (:mod:`serving.offline_rows`) is written as part of one materialization, which the store then
knows to cover everything up to its end: a row of before that lies there is replaced whatever its revision, one whose key has no row any
more is dropped, and a stream that runs beside cannot put one back. What a stream made after the end of the runs stays, until one begins
anew there (:func:`take_back`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.feature_store.applying import locked
from pipelines.feature_store.ownership import claim_rows
from pipelines.feature_store.store import open_store
from pipelines.lake import layout, shared
from pipelines.lake.folder_identity import identity_of
from pipelines.lake.user_output import stdout_to_stderr
from pipelines.project.repository import Repo
from serving.feast_mistakes import NO_ONLINE_STORE
from transforms.definitions import FINGERPRINT
from transforms.errors import ConfigError, DataError, StoreError, TandemError
from transforms.instants import instant, micros_of, now_us, to_minute

if TYPE_CHECKING:
    from serving.online_store.base import OrderedOnlineStore

__all__ = ["Materialized", "materialize", "materialize_view", "record_beside_applies", "take_back"]

_EVER = datetime(1, 1, 1, tzinfo=UTC)
_LAST_US = 2**53 - 1
"""Behind every event timestamp that a store takes."""
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Materialized:
    """What became of one view: ``rows`` were written, ``dropped`` are the stored ones whose keys have no row any more, ``newer`` the ones
    that stayed, as a stream is further; ``refused`` lie ahead of the clock; ``too_large`` are larger than the store takes."""

    view: str
    rows: int
    dropped: int = 0
    newer: int = 0
    refused: int = 0
    too_large: int = 0


def materialize(
    repo: Repo, start: datetime, end: datetime, views: Sequence[str] | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Materialized]:
    """Load the latest rows with event timestamps in [``start``, ``end``] into the online store, a view after the other.

    Nothing ahead of the store's now is loaded, however late ``end`` is: the row that is true now is, and those ahead wait for a later call
    or the stream. Safe to repeat, to kill and to run beside streams; of several at once the second waits for the first. Views and stores of
    Feast's own are loaded as Feast does it. Raises ConfigError, DataError and StoreError, one line each.
    """
    from serving.offline_store import AsofOfflineStore
    from serving.online_store.base import OrderedOnlineStore

    store = open_store(repo)
    online, offline = store._get_provider().online_store, store._get_provider().offline_store
    if online is None:
        raise ConfigError(NO_ONLINE_STORE)
    if isinstance(online, OrderedOnlineStore):
        claim_rows(repo, online, store.config)
    record_beside_applies(repo, store, say)
    with shared.alone(repo.data, layout.materialize_lock(repo.data), lambda: say("another materialize is running; waiting for it")):
        known = store.list_feature_views()
        chosen = [v for v in known if v.online and (views is None or v.name in views)]
        if missing := sorted(set(views or ()) - {v.name for v in known}):
            raise StoreError(f"feature view {missing[0]!r} is not in the registry; run 'tandem apply' first")
        ordered = isinstance(online, OrderedOnlineStore) and isinstance(offline, AsofOfflineStore)
        if ordered and micros_of(end) > (now := online.now(store.config)):
            if micros_of(start) > now:
                raise DataError(f"--start {to_minute(micros_of(start))} is in the future (now: {to_minute(now)}); give an earlier time")
            say(f"up to {to_minute(now)}, now; later rows are loaded when their time has come")
        ours = [v for v in chosen if ordered and FINGERPRINT in {f.name for f in v.features}]
        out = [materialize_view(store, online, view, start, end) for view in ours]
        others = [v.name for v in (*chosen, *store.list_stream_feature_views()) if v.online and v not in ours]
        return out + (_as_feast_does(store, online, others, start, end) if others else [])


def record_beside_applies(repo: Repo, store: Any, say: Callable[[str], None] = lambda line: None) -> None:
    """From now on the store of this process records an interval in the registry as it is then, while no apply is at work. Feast writes the
    registry as it was when the store was opened: an apply meanwhile was lost, and one that is refused puts back what it found."""
    from feast.errors import FeatureViewNotFoundException

    registry = store.registry
    real = registry.apply_materialization

    def record(view: Any, project: str, *given: Any, **named: Any) -> None:
        with locked(repo, say):
            registry.refresh(project)
            try:
                real(view, project, *given, **named)
            except FeatureViewNotFoundException:
                raise StoreError(
                    f"feature view {view.name!r} was loaded, but an apply has removed it from the registry in the meantime"
                ) from None

    registry.apply_materialization = record


def _as_feast_does(store: Any, online: Any, views: list[str], start: datetime, end: datetime) -> list[Materialized]:
    """Views that know no order, or a store that knows none; the rows that were offered."""
    rows, lock, write = dict.fromkeys(views, 0), Lock(), online.online_write_batch

    def counted(config: Any, table: Any, data: Any, progress: Any) -> None:
        write(config, table, data, progress)
        with lock:
            rows[table.name] += len(data)

    online.online_write_batch = counted
    try:
        with stdout_to_stderr():  # stdout is for results
            store.materialize(start_date=start, end_date=end, feature_views=views)
    except TandemError:
        raise
    except Exception as error:
        raise StoreError(f"feast materialize: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        del online.online_write_batch
    return [Materialized(view, n) for view, n in rows.items()]


def materialize_view(store: Any, online: OrderedOnlineStore, view: Any, start: datetime, end: datetime) -> Materialized:
    """One view of an ordered store; see :func:`materialize`, which holds the lock."""
    from serving.offline_rows import NOTHING, OfflineRows
    from serving.offline_store import connection, latest_of_view
    from serving.online_store.base import Covered

    config = store.config
    now = online.now(config)
    end = min(end, instant(now), key=micros_of)
    before, first = online.covered(config, view.name), micros_of(start)
    with connection(config) as db:
        source = OfflineRows(db, config, view.batch_source)

        def latest(since: datetime, until: datetime) -> pa.Table:
            return latest_of_view(db, source, view, since, until)

        if source.upto_us == NOTHING and before is not None:
            # The runs that were materialized are not found (the folder was moved, say): what they said is not to be taken back for it.
            return Materialized(view.name, 0)

        # Runs that come later have their own materialization; what lies beyond all runs is a stream's.
        reach = source.upto_us if source.upto_us is not None else micros_of(end)
        upto = min(micros_of(end), reach)
        # As of the runs that are read, too: one may have begun by a clock that was set back since.
        covered = Covered(max(now_us(), source.newest_us, before.stamp + 1 if before is not None else 0), upto)
        online.cover(config, view.name, Covered(covered.stamp, upto if before is None else max(upto, min(before.upto_us, reach, now))))
        rows = latest(start, min(end, instant(max(upto, 0))))
        result = online.write_rows(config, view, rows, covered)
        written, dropped = result.written, 0
        # Where the clock was set back, materializations before were further than now is. What they wrote ahead of it is not true yet, and
        # what is true now is less new: it goes first. What streams wrote stays, as they do not write it again.
        early = Covered(covered.stamp, _LAST_US, since=1)
        is_early = before is not None and before.upto_us > now and online.drop_superseded(config, view, now + 1, early, count_only=True)
        if is_early or online.drop_superseded(config, view, first, covered, count_only=True):
            # The range has no row of some keys that are stored; what they had before it is the latest then.
            older = latest(_EVER, min(start, instant(max(upto, 0))))
            older = older.filter(pa.array(online.stored(config, view, older))) if older.num_rows else older
            if is_early:
                online.drop_superseded(config, view, now + 1, early)
                written += online.write_rows(config, view, rows, covered).written
            written += online.write_rows(config, view, older, covered).written if older.num_rows else 0
            dropped = online.drop_superseded(config, view, first, covered)
    store.registry.apply_materialization(view, config.project, start, end)
    return Materialized(view.name, written, dropped, result.stale, result.refused, result.too_large)


def take_back(
    repo: Repo,
    beyond: Mapping[str, int],
    say: Callable[[str], None] = lambda line: None,
    beat: Callable[[], None] | None = None,
) -> int:
    """Take out of the online store what streams wrote with event timestamps after ``beyond`` (view -> microseconds); how many rows.

    A stream that begins at the end of a run makes them anew, from the run's windows and the topics as they are now. Those of a beginning
    before may have counted what was corrected since, or be of keys that are in the log no more, and among rows of streams the greater
    revision wins. What the batch runs have up to there, or up to where they were materialized, takes their place in one step per key.
    Nothing is taken where the runs are not found. Safe to repeat and to kill. ``beat`` is called while a materialize is waited for;
    what it raises ends that. Raises StoreError.
    """
    from serving.offline_rows import NOTHING, OfflineRows
    from serving.offline_store import connection, latest_of_view
    from serving.online_store.base import Covered, OrderedOnlineStore

    store = open_store(repo)
    online, config = store._get_provider().online_store, store.config
    if not isinstance(online, OrderedOnlineStore):
        return 0
    online.writer = identity_of(repo.data)
    taken, streamed = 0, Covered(1, _LAST_US, since=-1)  # streams have the stamp 0, materializations greater ones
    busy = "a materialize is running; waiting for it"
    with shared.alone(repo.data, layout.materialize_lock(repo.data), lambda: say(busy), beat):
        for view in sorted(store.list_feature_views(), key=lambda view: view.name):
            if view.name not in beyond or not (n := online.drop_superseded(config, view, beyond[view.name] + 1, streamed, count_only=True)):
                continue
            before = online.covered(config, view.name)
            with connection(config) as db:
                source = OfflineRows(db, config, view.batch_source)
                if source.upto_us == NOTHING:
                    continue
                reach = beyond[view.name] if before is None else max(beyond[view.name], before.upto_us)
                upto = min(online.now(config), reach, reach if source.upto_us is None else source.upto_us)
                rows = latest_of_view(db, source, view, _EVER, instant(max(upto, 0)))
            # Its stamp is kept: the next materialization's is greater, also by a clock that is behind.
            covered = Covered(max(now_us(), before.stamp + 1 if before is not None else 0), 0 if before is None else before.upto_us)
            online.cover(config, view.name, covered)
            for at in range(0, rows.num_rows, _ROWS_AT_ONCE):
                some = rows.slice(at, _ROWS_AT_ONCE)
                online.write_rows(
                    config, view, some.filter(pa.array(online.stored(config, view, some))), replace(covered, upto_us=_LAST_US)
                )
            online.drop_superseded(config, view, beyond[view.name] + 1, streamed)
            taken += n
    return taken
