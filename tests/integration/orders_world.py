"""A small repository of orders, with its event log as JSON lines: what the tests of single faults start from (no preprocessing, SQLite).

``world.log([...])`` writes the whole event log anew, as one who corrects it does; ``world.round()`` is batch, apply and materialize over
the same day; ``world.offline`` and ``world.online`` ask both stores for the latest row of a shop.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import workflow
from pipelines.project.repository import Repo, load_repo
from pipelines.reports.terminal import Steps
from tests.redis_server import redis_server

__all__ = ["END", "START", "Orders", "online_store", "order"]

START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC)

FEATURES = """
from datetime import timedelta
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Mean, days, hours, minutes

orders = EventSource(
    name="orders",
    event_time="at",
    tie_breaker="order_id",
    fields=[
        Field("order_id", "string", required=True),
        Field("shop", "int64", required=True),
        Field("city", "string", required=True),
        Field("amount", "float64"AMOUNT),
        Field("channel", "string"CHANNEL),
        Field("sent", "timestamp"),
    ],
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    files="events/orders",
    topic="orders",
)
shop_orders = FeatureGroup(
    name="shop_orders", source=orders, entity=Entity("shop"), hop=minutes(5), ttl=hours(2),
    aggregates=[Count(over=[hours(1), hours(24)]), Mean("amount", over=hours(1))],
)
city_orders = FeatureGroup(
    name="city_orders", source=orders, entity=Entity("city"), hop=hours(1), ttl=days(2), aggregates=[Count(over=hours(24))]
)
feast_views(__name__)
"""


@contextmanager
def online_store(kind: str) -> Iterator[dict[str, Any]]:
    """The ``store`` of a world: ``sqlite`` (the world's own file), or ``redis``, a server that ends with the block."""
    if kind == "sqlite":
        yield {}
    else:
        with redis_server() as server:
            name = "tandem.serving.online_store.redis.OrderedRedisOnlineStore"
            yield {"type": name, "connection_string": server.connection_string}


def order(number: str, at: str, amount: float | None = 5.0, shop: int = 1, city: str = "b", **more: Any) -> dict[str, Any]:
    """An event; ``at`` is a time of the day, ``10:02``, or a whole one."""
    when = at if "T" in at else f"2024-05-01T{at}:00Z"
    return {"order_id": number, "shop": shop, "city": city, "amount": amount, "at": when, **more}


class Quiet(Steps):
    """Keeps what would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


@dataclass
class Orders:
    """The repository below ``path``; ``amount`` is what follows the type of the field ``amount`` in its definition."""

    path: Path
    amount: str = ""
    as_of: datetime = END
    store: dict[str, Any] = field(default_factory=dict)
    steps: Quiet = field(default_factory=Quiet)

    def __post_init__(self) -> None:
        self.repo_path.mkdir(parents=True, exist_ok=True)
        (self.repo_path / "tandem.yaml").write_text("data: ../data\ndefinitions: features\nbatch: {shards: 1, max_reject_share: 0.9}\n")
        self.configure()
        self.define(self.amount)

    @property
    def repo_path(self) -> Path:
        """The feature repository."""
        return self.path / "repo"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.path / "data"

    def configure(self) -> None:
        """Write feature_store.yaml."""
        online = self.store or {
            "type": "tandem.serving.online_store.sqlite.OrderedSqliteOnlineStore",
            "path": "../data/online.db",
        }
        feast = {
            "project": "orders",
            "provider": "local",
            "registry": "../data/registry.db",
            "entity_key_serialization_version": 3,
            "offline_store": {"type": "tandem.serving.offline_store.AsofOfflineStore"},
            "online_store": {**online, "as_of": self.as_of.isoformat()},
        }
        (self.repo_path / "feature_store.yaml").write_text(json.dumps(feast))

    def move_to(self, now: datetime) -> None:
        """It is ``now``."""
        self.as_of = now
        self.configure()

    def define(self, amount: str = "", channel: str = "") -> None:
        """Write the definitions anew, e.g. with ``, max=1000`` behind the type of a field."""
        (self.repo_path / "features.py").write_text(FEATURES.replace("AMOUNT", amount).replace("CHANNEL", channel))
        sys.modules.pop("features", None)  # each command is a process of its own

    def repo(self) -> Repo:
        """The repository as it stands."""
        return load_repo(self.repo_path)

    def log(self, events: Sequence[dict[str, Any]], name: str = "all") -> None:
        """The event log is these."""
        folder = self.data / "events/orders/date=2024-05-01"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))

    def batch(self, start: datetime = START, end: datetime = END, **how: Any) -> str:
        """``tandem batch``; the run's id."""
        return workflow.batch(self.repo(), start, end, self.steps, **how).id

    def apply(self, run: str | None = None) -> None:
        """``tandem apply``."""
        workflow.apply(self.repo(), run, self.steps)

    def materialize(self, start: datetime = START, end: datetime = END + timedelta(hours=1)) -> None:
        """``tandem materialize``, up to now."""
        workflow.materialize(self.repo(), start, min(end, self.as_of), self.steps)

    def round(self, start: datetime = START, end: datetime = END, **how: Any) -> str:
        """Batch, apply, materialize over the same range; the run's id."""
        run = self.batch(start, end, **how)
        self.apply(run)
        self.materialize(start, end + timedelta(hours=1))
        return run

    def feast(self) -> Any:
        """Feast's own view of the repository."""
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.repo_path))

    def offline(self, *names: str, at: datetime = END, shop: int = 1) -> tuple[Any, ...]:
        """The features of a shop as a training set would have them at a moment."""
        spine = pd.DataFrame({"shop": [shop], "event_timestamp": [at]})
        found = self.feast().get_historical_features(spine, [f"shop_orders:{n}" for n in names]).to_arrow()
        return tuple(found.column(n)[0].as_py() for n in names)

    def online(self, *names: str, shop: int = 1) -> tuple[Any, ...]:
        """The features of a shop as they are served."""
        found = self.feast().get_online_features([f"shop_orders:{n}" for n in names], [{"shop": shop}]).to_dict()
        return tuple(found[n][0] for n in names)
