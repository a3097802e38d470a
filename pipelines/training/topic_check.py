"""``tandem check --only topics``: the contract on the newest records of a topic, and which fields stand nowhere in them; where none of them
is taken, by the schema that is registered for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pipelines.inference.topic_records import sample_payloads
from pipelines.project.repository import Repo
from pipelines.sources.broker import FetchResult, PartitionReader, open_broker
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.null_fields import NullFields, null_line
from pipelines.sources.record_times import judged_at
from pipelines.sources.record_verdicts import judge_records
from pipelines.training.unseen_fields import LEAST_EVENTS, RECORDS, unseen_in
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import now_us
from transforms.rules import field_of

__all__ = ["check_topic"]

NEWEST = 2_000
"""So many records are looked at, over all partitions."""
POLL_MS = 2_000
_NAMED = ("json", "json_schema", "avro", "protobuf")
"""The formats whose records hold names, so that one can be meant for another."""


def check_topic(repo: Repo, source: EventSource, say: Callable[[str], None]) -> str:
    """What the contract of a source says of the newest records of its topic, in one line; ``say`` hears of each field that none has.

    Nothing is written, and nothing waited for: raises what its broker and registry raise where they are away, and DataError where there are
    records for the source and none is taken. What its ``where`` passes over, what has no event and tombstones are for others; so may be
    records that cannot be read, where more can be and are.
    """
    reader = open_broker(repo.settings.kafka, repo.data).open_reader()
    try:
        return _checked(repo, source, reader, say)
    finally:
        reader.close()


def _checked(repo: Repo, source: EventSource, reader: PartitionReader, say: Callable[[str], None]) -> str:
    form, limit = record_format(source, repo.settings.kafka), round(repo.settings.stream.max_future_hours * 3.6e9)
    nulls, reasons, aside = NullFields(source), Counter[str](), Counter[str]()
    payloads: list[bytes | None] = []
    records = unread = 0
    for fetched in _newest(reader, source.topic):
        checked = judge_records(form.judge, fetched, source, judged_at(fetched.timestamps_us, now_us(), limit), limit)
        records += len(fetched.offsets)
        nulls.see(checked.valid)
        reasons.update(checked.reasons.drop_null().to_pylist())
        unread += sum(field_of(detail) is None for detail in checked.details.drop_null().to_pylist())
        aside.update({"filtered": checked.passed_over, "of no event": checked.empty, "tombstones": checked.tombstones})
        payloads += fetched.payloads.slice(0, max(0, RECORDS - len(payloads))).to_pylist()
    # Of records that are there the schemas that they were written with are older ones, perhaps.
    subject = "" if nulls.events else form.check_schema(say)
    if not records:
        known = f"; by the newest schema of {subject} something can stand where its fields do" if subject else ""
        return f"topic {source.topic}: no records yet{known}"
    told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    more = "".join(f", {n:,} {what}" for what, n in aside.items() if n)
    # A reject that names a field got past ``where``: it is of this source. Of one that cannot be read nobody knows whose it is.
    if not nulls.events and (reasons.total() > unread or unread > aside["filtered"] + aside["of no event"]):
        raise DataError(
            f"source {source.name!r}: its contract accepts none of the newest {records:,} records of {source.topic} ({told}{more})"
        )
    if nulls.events >= LEAST_EVENTS:
        for line in _unseen(repo, source, nulls, payloads):
            say(line)
    return f"topic {source.topic}: of the newest {records:,} records {nulls.events:,} events accepted, rejected: {told or 'none'}{more}"


def _newest(reader: PartitionReader, topic: str) -> Iterator[FetchResult]:
    partitions = reader.partitions(topic)
    for partition in range(partitions):
        end = reader.end(topic, partition)
        at = max(reader.start(topic, partition), end - -(-NEWEST // partitions))
        while at < end:
            fetched = reader.poll(topic, partition, at, end - at, POLL_MS)
            if fetched.next_offset == at:
                break
            yield fetched
            at = fetched.next_offset


def _unseen(repo: Repo, source: EventSource, nulls: NullFields, payloads: list[bytes | None]) -> list[str]:
    """A line for each field that is null in all events: what may be meant, where records hold names."""
    if not nulls.names:
        return []
    named = [name for name in nulls.names if isinstance(source.field(name).place, tuple)]
    lines = [null_line(source, name, nulls.events) for name in nulls.names if name not in named]
    form = repo.settings.kafka.format_of(source.name)
    if form not in _NAMED:
        return [*(null_line(source, name, nulls.events) for name in named), *lines]
    explode = source.explode_path or None
    sample, _ = sample_payloads(payloads, explode, kafka=repo.settings.kafka, name=source.name, topic=source.topic, form=form)
    return [*unseen_in(source, named, sample), *lines]
