"""A real Kafka broker for tests: its own process, free ports, its data in a temporary folder, always ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipelines.services.kafka_broker import Broker


@contextlib.contextmanager
def kafka_server(folder: Path) -> Iterator[Broker]:
    """A broker that is ready. ``.bootstrap``, ``.kill()`` (kill -9), ``.restart()`` (same data and port), ``.pause()``, ``.resume()``.

    It dies with this process, and with the thread that entered here.
    """
    broker = Broker(folder / "kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.resume()
        broker.kill()
