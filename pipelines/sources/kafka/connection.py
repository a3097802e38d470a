"""The connection to Kafka: it finds leaders, and waits a bounded time for answers.

It stands on kafka-python's network client and protocol classes, not on its consumer: a fetch by topic id notices a topic that was made
anew, an empty answer is seen as such, and the bytes of an answer can be read as columns (``record_batches.py``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import MetadataRequest

from pipelines.sources.broker import BrokerAway, BrokerRefused, UnknownTopic
from transforms.errors import StoreError

__all__ = ["ANSWER_SECONDS", "KafkaConnection", "TopicInfo", "refused"]

ANSWER_SECONDS = 5.0
"""How long a broker may take to answer before it counts as away."""
AWAY_SECONDS = 0.5
"""The same while it is known to be away: a caller with many partitions must not wait for each."""
_RENEW_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_NO_ID = UUID(int=0)
_REFUSALS = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)

# What goes wrong is said once, by our errors; kafka-python logs each attempt.
logging.getLogger("kafka").setLevel(logging.CRITICAL)
# Whoever turns its debugging on would see requests as they are sent, and in those of SASL the password.
for _name in [name for name in logging.root.manager.loggerDict if name.startswith("kafka.")]:
    logging.getLogger(_name).addFilter(lambda record: record.levelno >= logging.INFO)


@dataclass(frozen=True)
class TopicInfo:
    """A topic as the brokers describe it: its id (None from brokers before Kafka 2.8) and each partition's leader (-1: none now)."""

    name: str
    id: UUID | None
    leaders: dict[int, int]


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Remembers why the last connection could not be made; kafka-python only logs that, and tries for ever."""

    problem: Exception | None = None

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        """The connection to a node."""
        made = super().get_connection(node_id, **options)
        if not made.init_future.is_done:
            made.init_future.add_both(self._note)
        return made

    def _note(self, result: Any) -> None:
        if not isinstance(result, Exception):
            self.problem = None
        elif not isinstance(self.problem, _REFUSALS):  # a refusal says more than what comes after it
            self.problem = result


class KafkaConnection:
    """The connection of this process; safe to share between threads.

    Every call returns or raises within ``answer_seconds`` and the wait that the request itself asks for: BrokerAway when nobody
    answers (call again: it connects anew by itself), BrokerRefused when it is there and does not let us.
    """

    def __init__(self, options: dict[str, Any], answer_seconds: float = ANSWER_SECONDS) -> None:
        self.options = options
        self.answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._client: KafkaNetClient | None = None
        self._boot: Future | None = None
        self._answered = time.monotonic()
        self._away = False
        self._known = False
        self._closed = False
        self._topics: dict[str, TopicInfo] = {}

    def patience(self) -> float:
        """Seconds to wait for an answer now."""
        return min(AWAY_SECONDS, self.answer_seconds) if self._away else self.answer_seconds

    def topic(self, name: str, fresh: bool = False) -> TopicInfo:
        """The topic, remembered unless ``fresh``. Raises UnknownTopic, BrokerAway."""
        known = self._topics.get(name)
        if known is None or fresh:
            known = self._topics[name] = self._describe(name, time.monotonic() + self.patience())
        return known

    def _describe(self, name: str, until: float) -> TopicInfo:
        def request() -> Any:
            wanted = MetadataRequest.MetadataRequestTopic(name=name, topic_id=_NO_ID)
            return MetadataRequest(topics=[wanted], allow_auto_topic_creation=False, include_topic_authorized_operations=False)

        while True:
            answer = self.ask(None, request, until).topics[0]
            kind = kafka_errors.for_code(answer.error_code)
            if kind is kafka_errors.NoError:
                leaders = {p.partition_index: p.leader_id for p in answer.partitions}
                return TopicInfo(name, answer.topic_id or None, dict(sorted(leaders.items())))
            if kind in (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError):
                self._topics.pop(name, None)
                raise UnknownTopic(f"there is no Kafka topic {name!r} at {self.where()}; create it, or correct the topic of its source")
            if kind is kafka_errors.TopicAuthorizationFailedError:
                raise refused(f"describe topic {name!r}")
            if not issubclass(kind, kafka_errors.RetriableError) or time.monotonic() > until:
                raise BrokerAway(f"Kafka topic {name!r} cannot be described now: {kind.__name__}; the call may be made again")
            time.sleep(_PAUSE_SECONDS)

    def ask(self, node: int | None, request: Callable[[], Any], until: float | None = None) -> Any:
        """The answer of a broker (None: any), repeating the request until then. Raises BrokerAway, BrokerRefused."""
        until = time.monotonic() + self.patience() if until is None else until
        while True:
            try:
                return self.wait(self.send(node, request(), until), until)
            except kafka_errors.RetriableError:
                if time.monotonic() > until:
                    raise self.away() from None
                time.sleep(_PAUSE_SECONDS)

    def send(self, node: int | None, request: Any, until: float) -> Future:
        """Send in the background, as soon as there is a connection. Raises RetriableError when there is none by then."""
        client = self._connected(until)
        manager = client._manager
        try:
            future: Future = manager.call_soon(lambda: manager.send(request, node_id=node))
        except Exception as error:  # its thread has ended
            self._drop(client)
            raise kafka_errors.KafkaConnectionError(str(error)) from None
        return future

    def wait(self, future: Future, until: float) -> Any:
        """The answer. Raises BrokerAway when it is not there by then (it may still come), RetriableError when the request failed."""
        if not _done(future, until):
            raise self.away()
        error = future.exception
        if error is None:
            self._answered, self._away = time.monotonic(), False
            return future.value
        if isinstance(error, kafka_errors.UnknownBrokerIdError) and self._client is not None:
            self._client.cluster.request_update()
        passing = (kafka_errors.RetriableError, kafka_errors.UnknownBrokerIdError, OSError, RuntimeError, *_REFUSALS)
        if isinstance(error, passing) or not isinstance(error, Exception):  # the latter: its connection was dropped under it
            raise kafka_errors.KafkaConnectionError(str(error)) from None
        raise StoreError(f"Kafka at {self.where()}: {error!r}; see the broker's log") from None

    def away(self) -> BrokerAway:
        """The error to raise when nobody answered. After a long silence the next call makes a connection of its own."""
        silent = time.monotonic() - self._answered
        client, boot = self._client, self._boot
        if silent > _RENEW_SECONDS and client is not None and boot is not None and boot.is_done:
            self._drop(client)
        self._away = True
        secure = self.options["security_protocol"] != "PLAINTEXT"
        how = f" by {self.options['security_protocol']}" if secure else ""
        what = "kafka.bootstrap_servers" + (", sasl_* and ssl_*" if secure else "")
        why = "" if client is None or client._manager.problem is None else f" ({client._manager.problem})"
        return BrokerAway(f"no response from Kafka at {self.where()}{how} for {silent:.0f} s{why}; start it, or correct {what}")

    def where(self) -> str:
        """The configured brokers, for messages."""
        return ",".join(self.options["bootstrap_servers"])

    def _connected(self, until: float) -> KafkaNetClient:
        with self._lock:
            if self._closed:
                raise StoreError("this Kafka connection is closed; make a new one")
            if self._client is None:
                self._client = self._start()
                # Tries for ever, in the background: a call waits for it as long as it may, the next one goes on waiting.
                self._boot = self._client._manager.bootstrap_async(None, refresh=False)
            client, boot = self._client, self._boot
        assert boot is not None
        while not _done(boot, min(until, time.monotonic() + _PAUSE_SECONDS)):
            # Whoever was let in before may be refused for a while when the broker comes back; whoever never was has a wrong setting.
            if isinstance(client._manager.problem, _REFUSALS) and not self._known:
                self._drop(client)
                raise refused("log in")
            if time.monotonic() > until:
                raise kafka_errors.KafkaConnectionError("not connected yet")
        if boot.exception is not None:
            self._drop(client)
            raise kafka_errors.KafkaConnectionError(str(boot.exception))
        self._known = True
        return client

    def _start(self) -> KafkaNetClient:
        more = {
            "socket_connection_setup_timeout_ms": 5000,
            "socket_connection_setup_timeout_max_ms": 5000,
            "max_in_flight_requests_per_connection": 1000,  # one per partition, and they must not fail for being many
            "receive_message_max_bytes": 500_000_000,
        }
        net = NetworkSelector(**self.options)
        client = KafkaNetClient(net, _Manager(net, **self.options, **more))
        net.start()
        return client

    def _drop(self, client: KafkaNetClient) -> None:
        """Close a client, and forget it if it is still the one in use."""
        with self._lock:
            if self._client is client:
                self._client = self._boot = None
        with contextlib.suppress(Exception):  # it is in a bad state already
            client.close()

    def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        if self._client is not None:
            self._drop(self._client)


def _done(future: Future, until: float) -> bool:
    """Wait for it, at most until then."""
    if not future.is_done:
        event = threading.Event()
        future.add_both(lambda _: event.set())
        event.wait(max(0.0, until - time.monotonic()))
    return bool(future.is_done)


def refused(what: str) -> BrokerRefused:
    """The error for a broker that knows us and says no."""
    return BrokerRefused(f"the Kafka broker denied permission to {what}; correct kafka.sasl_* or the user's ACLs")
