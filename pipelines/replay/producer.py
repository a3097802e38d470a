"""Topics for a replay, and the sender: every record acknowledged by all replicas, in order, a bounded number under way."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError, TopicAlreadyExistsError

from pipelines.lake.counted import counted
from transforms.errors import ConfigError, StoreError

__all__ = ["Outbox", "prepare_topics"]

WINDOW = 10_000
"""At most two windows of records are under way."""
SAY_AFTER_SECONDS = 3.0
STOP_SECONDS = 10.0
"""How long a stopped replay waits for the broker's last words."""
MAX_REQUEST_BYTES = 16 << 20
GC_THRESHOLD = (50_000, 20, 100)
"""The client makes some twenty objects per record, few of them garbage: looking for it as often as by default took a third of the time."""

Say = Callable[[str], None]
Stopped = Callable[[], bool]


def _patiently(make: Callable[[], Any], connection: dict[str, Any], say: Say, stopped: Stopped) -> Any:
    """What ``make`` returns, once a broker answers; None when stopped before. Raises ConfigError when the broker refuses us."""
    said = False
    while not stopped():
        try:
            made = make()
        except RetriableError:
            if not said:
                say(f"no Kafka broker responds at {_servers(connection)}; waiting")
                said = True
            time.sleep(0.2)
            continue
        except KafkaError as error:
            raise ConfigError(
                f"the broker at {_servers(connection)} refused the connection: {error}; check the kafka section of tandem.yaml"
            ) from None
        if said:
            say("connected to the broker; continuing")
        return made
    return None


def _servers(connection: dict[str, Any]) -> str:
    return ", ".join(connection["bootstrap_servers"])


def prepare_topics(
    connection: dict[str, Any],
    topics: list[str],
    partitions: int | None,
    say: Say = lambda line: None,
    stopped: Stopped = lambda: False,
    retention_ms: int = -1,
    replication: int | None = None,
) -> dict[str, int]:
    """The number of partitions of each topic; missing topics are made with ``partitions`` (default 1) and ``replication`` copies
    (default: the broker's), and kept for ever unless ``retention_ms`` says otherwise: replayed records carry old timestamps, and any limit
    would delete them within minutes.

    Raises ConfigError for an existing topic with another number of partitions than asked for.
    """
    admin = _patiently(lambda: KafkaAdminClient(**{**connection, "bootstrap_timeout_ms": 2_000}), connection, say, stopped)
    if admin is None:
        return dict.fromkeys(topics, partitions or 1)
    try:
        known = _partition_counts(admin, topics)
        wanted: dict[str, Any] = {"num_partitions": partitions or 1, "configs": {"retention.ms": str(retention_ms)}}
        wanted |= {"replication_factor": replication} if replication is not None else {}
        missing = {t: wanted for t in topics if t not in known}
        if missing:
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(missing, wait_for_metadata=True)
            say(f"created {', '.join(sorted(missing))} with {counted(partitions or 1, 'partition')}")
            known = _partition_counts(admin, topics)
    except KafkaError as error:
        raise StoreError(f"topics {', '.join(topics)} cannot be created or read: {error}; check the broker and its permissions") from None
    finally:
        admin.close()
    for topic, count in known.items():
        if partitions is not None and count != partitions:
            raise ConfigError(f"--partitions {partitions}: topic {topic} already has {count}; drop the option or use another topic")
    return known


def _partition_counts(admin: Any, topics: list[str]) -> dict[str, int]:
    found = admin.describe_topics(topics)
    return {t["name"]: len(t["partitions"]) for t in found if not t["error_code"] and t["partitions"]}


class Outbox:
    """Sends records with ``acks=all`` by an idempotent producer, so a retry neither doubles nor reorders them.

    With one exception: a broker that starts anew forgets producers whose last record is older than ``producer.id.expiration.ms`` (a day)
    by the record's own time. What it took of old history and could not answer before it died, it takes again.

    A context manager: what was sent is on its way until :meth:`finish`. While no broker answers it waits, and says so once.
    """

    def __init__(
        self, connection: dict[str, Any], say: Say = lambda line: None, stopped: Stopped = lambda: False, linger_ms: int = 20
    ) -> None:
        self.connection, self.say, self.stopped, self.linger_ms = connection, say, stopped, linger_ms
        self.window: list[Any] = []
        self.before: list[Any] = []
        self.last: dict[tuple[str, int], Any] = {}
        self.producer: Any = None
        self.unacknowledged = 0
        self.gc_before = gc.get_threshold()

    def __enter__(self) -> Outbox:
        options = {
            **self.connection,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": self.linger_ms,
            "batch_size": 256 << 10,
            "max_request_size": MAX_REQUEST_BYTES,
            "delivery_timeout_ms": 2**31 - 1,  # never give up: the replay says that it waits
            "metrics_enabled": False,
            "bootstrap_timeout_ms": 2_000,
        }
        gc.set_threshold(*GC_THRESHOLD)
        self.producer = _patiently(lambda: KafkaProducer(**options), self.connection, self.say, self.stopped)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        gc.set_threshold(*self.gc_before)
        if self.producer is not None:
            with contextlib.suppress(KafkaTimeoutError):  # of records that nobody acknowledged: who asked to leave knows
                self.producer.close(timeout=0)

    def send_all(
        self, topics: list[str], partitions: list[int], values: list[bytes | None], keys: list[bytes], stamps_ms: list[int]
    ) -> None:
        """Send N records, given column by column. Raises StoreError when the broker refuses an earlier one for good."""
        if self.producer is None:
            return
        send, window, last = self.producer.send, self.window, self.last
        for topic, partition, value, key, stamp in zip(topics, partitions, values, keys, stamps_ms, strict=True):
            future = send(topic, value, key, None, partition, stamp)
            window.append(future)
            last[topic, partition] = future
        if len(window) >= WINDOW:
            self._await(self.before)
            self.before, self.window = window, []

    def finish(self) -> dict[tuple[str, int], int]:
        """Wait until all that was sent is acknowledged; the last offset per (topic, partition) of what this outbox sent.

        One that was stopped while no broker answers leaves ``unacknowledged`` records behind, which may or may not be in the topic.
        """
        if self.producer is None:
            return {}
        self._await(self.before)
        self._await(self.window)
        self.unacknowledged = sum(not future.is_done for future in (*self.before, *self.window))
        self.before, self.window = [], []
        return {place: future.value.offset for place, future in self.last.items() if future.is_done and future.value is not None}

    def _await(self, futures: list[Any]) -> None:
        begun, said, leave = time.monotonic(), False, 0.0
        for future in futures:
            while not future.is_done:
                try:
                    future.get(timeout=0.5)
                except KafkaTimeoutError:
                    now = time.monotonic()
                    if not said and now - begun > SAY_AFTER_SECONDS:
                        self.say(f"the broker at {_servers(self.connection)} does not respond; waiting")
                        said = True
                    if self.stopped():
                        leave = leave or now + STOP_SECONDS
                        if now > leave:
                            return
                except Exception:
                    break
            if future.is_done and future.failed():
                where = future._produce_future.topic_partition
                raise StoreError(f"the broker refused a record of {where.topic}, partition {where.partition}: {future.exception!r}")
        if said:
            self.say("the broker responds again; continuing")
