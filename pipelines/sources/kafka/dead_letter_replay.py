"""Replays dead letters, each record once.

Letters are written at least once, and a replay may be killed at any moment, so the question is always of which record a letter is
(:attr:`Letter.identity`), and the answer to "was it replayed?" lies in Kafka beside the record itself: a transaction writes both the
replayed record and an entry of the ledger (the compacted topic ``<dead letters>.replayed``, key: the identity). Whoever reads committed
records only, as the job does, sees both or neither. One replay can be at work: a second one fences the first, then reads the ledger.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypedDict

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from pipelines.sources.broker import REPLAYED_TIME, Broker, PartitionReader
from pipelines.sources.kafka.dead_letters import Value, ensure_topic, failed, producer_options, sendable
from pipelines.sources.kafka.kafka_client import KafkaBroker
from pipelines.sources.letters import Choice, Letter, ledger_of, replayed, scan
from transforms.errors import ConfigError, StoreError

__all__ = ["REPLAYED_FROM", "replay"]

REPLAYED_FROM = "tandem.replayed_from"
"""The header of a replayed record that names the record it repeats."""
BATCH = 500
BATCH_BYTES = 4 << 20
"""At most so many records and bytes in one transaction."""
SECONDS = 30.0
"""How long sending or ending a transaction may take."""
_ABANDONED_MS = 15_000
"""A transaction whose replay was killed is ended by the broker after this; until then readers of its topics wait at it."""


class LetterCounts(TypedDict):
    """What a replay of dead letters did, or would do (``dry_run``)."""

    replayed: dict[str, int]
    """Source topic -> records."""
    already: int
    """Replayed by an earlier call."""
    repeats: int
    """Letters of a record that has another one."""
    foreign: int
    """Records of the topic that are not dead letters."""
    cut: int
    """Letters that hold only the beginning of a record; left out."""
    tombstones: int
    """Left out, as they are no rejects any more."""
    dry_run: bool


def replay(
    broker: Broker,
    topic: str,
    choice: Choice,
    *,
    timed: Collection[str] = (),
    dry_run: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> LetterCounts:
    """Produce the records of a choice back to where they came from: same topic, partition, key, value and headers, one header more.

    Records of the sources ``timed``, which read their records' timestamps, have a second one more, with the timestamp that they had.

    A record is replayed once, however often its letter was written and however often this is
    called, killed or repeated; committed records are all that a second call finds. ``dry_run`` says what would be done. Raises BrokerAway,
    ConfigError, UnknownTopic (a source topic is gone), StoreError (another replay took over, or the broker gave up): call it again, it goes
    on.
    """
    if not isinstance(broker, KafkaBroker):
        raise ConfigError(f"dead letters are replayed by Kafka's transactions, and {broker!r} has none; append the records yourself")
    reader, options = broker.open_reader(), broker.connection()
    producer: KafkaProducer | None = None
    try:
        if not dry_run:
            ensure_topic(options, ledger_of(topic), {"cleanup.policy": "compact"})
            producer = _fencing(options, topic)
        # After the fencing: what another replay committed is in the ledger, and it can commit no more.
        done, seen = replayed(reader, topic), set[str]()
        counts: LetterCounts = {
            "replayed": {}, "already": 0, "repeats": 0, "foreign": 0, "cut": 0, "tombstones": 0, "dry_run": dry_run
        }  # fmt: skip
        partitions: dict[str, int] = {}
        written: dict[tuple[str, int], int] = {}
        batch: list[Letter] = []
        for letter in scan(reader, topic):
            if letter is None:
                counts["foreign"] += 1
                continue
            if not choice.takes(letter):
                continue
            if letter.identity in seen:
                counts["repeats"] += 1
                continue
            seen.add(letter.identity)
            if not letter.whole:
                counts["cut"] += 1
                continue
            if letter.tombstone:
                counts["tombstones"] += 1
                continue
            if letter.identity in done:
                counts["already"] += 1
                continue
            if letter.topic not in partitions:
                partitions[letter.topic] = reader.partitions(letter.topic)
            batch.append(letter)
            if len(batch) == BATCH or sum(len(a.value or b"") for a in batch) > BATCH_BYTES:
                _commit(producer, topic, batch, partitions, counts, options, written, timed)
                say(f"{sum(counts['replayed'].values()):,} records replayed")
                batch = []
        _commit(producer, topic, batch, partitions, counts, options, written, timed)
        _seen(reader, written)
        return counts
    finally:
        reader.close()
        if producer is not None:
            with suppress(kafka_errors.KafkaError):
                producer.close(timeout=2)


def _fencing(options: Mapping[str, Any], topic: str) -> KafkaProducer:
    """A producer that is the only one to replay this topic: what an earlier one left open is aborted."""
    try:
        producer = KafkaProducer(
            **producer_options(options, SECONDS),
            transactional_id=f"tandem-replay-{topic}",
            transaction_timeout_ms=_ABANDONED_MS,
        )
        producer.init_transactions()
    except kafka_errors.KafkaError as error:
        raise _stopped(error, topic, options) from None
    return producer


def _commit(
    producer: KafkaProducer | None,
    topic: str,
    letters: list[Letter],
    partitions: Mapping[str, int],
    counts: LetterCounts,
    options: Mapping[str, Any],
    written: dict[tuple[str, int], int],
    timed: Collection[str],
) -> None:
    """One transaction: the records, and the ledger's entries about them; notes where it wrote. Without a producer nothing is sent."""
    if producer is not None and letters:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            producer.begin_transaction()
            sent = []
            for letter in letters:
                more = [(REPLAYED_FROM, letter.identity.encode())]
                known = any(name == REPLAYED_TIME for name, _ in letter.headers)  # of several replays the first knows
                if letter.source in timed and not known:
                    more.append((REPLAYED_TIME, str(letter.timestamp_us // 1000).encode()))
                headers = sendable([*letter.headers, *more])
                # Its old partition keeps the order among the records of a key; the timestamp is now, as retention goes by it.
                partition = letter.partition if letter.partition < partitions[letter.topic] else None
                sent.append(producer.send(letter.topic, Value(letter.value), letter.key, headers, partition))
                entry = json.dumps({"topic": letter.topic, "reason": letter.reason, "at": now}).encode()
                sent.append(producer.send(ledger_of(topic), Value(entry), letter.identity.encode(), partition=0))
            producer.flush(SECONDS)
            ends = {(done.topic, done.partition): done.offset for done in (future.get(0) for future in sent)}
            _bounded(producer.commit_transaction)
            written.update(ends)
        except kafka_errors.KafkaError as error:
            if not _fenced(error):
                with suppress(kafka_errors.KafkaError):  # then the broker does it, when its time is over or at the next replay
                    _bounded(producer.abort_transaction, 5)
            raise _stopped(error, topic, options) from None
    for letter in letters:
        counts["replayed"][letter.topic] = counts["replayed"].get(letter.topic, 0) + 1


def _fenced(error: kafka_errors.KafkaError) -> bool:
    """Whether another producer has taken over: the client says so itself, or gives it as the cause of what cannot be sent any more."""
    fencing = (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)
    return any(isinstance(each, fencing) for each in (error, *error.args))


def _stopped(error: kafka_errors.KafkaError, topic: str, options: Mapping[str, Any]) -> Exception:
    """Why a replay goes no further."""
    if _fenced(error):
        return StoreError(f"another replay of {topic!r} has taken over; this one stopped, and no record was replayed twice")
    return failed(error, f"dead letters of {topic!r} cannot be replayed", options)


def _seen(reader: PartitionReader, written: Mapping[tuple[str, int], int]) -> None:
    """Wait until readers of committed records can see what was written: a commit is decided before its markers are in every partition."""
    until = time.monotonic() + SECONDS
    for (topic, partition), offset in written.items():
        while reader.end(topic, partition) <= offset and time.monotonic() < until:
            time.sleep(0.02)


def _bounded(call: Callable[[], None], seconds: float = SECONDS) -> None:
    """Call what knows no time limit of its own. Raises what it raises, KafkaTimeoutError when it does not return."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="kafka-transaction")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise kafka_errors.KafkaTimeoutError(f"the transaction did not end within {seconds:g} s")
    if errors:
        raise errors[0]
