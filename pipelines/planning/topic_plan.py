"""Whether a stream can read what stands in its topics, by their newest schemas: what an empty registry or a wrong setting makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.formats.schema_paths import LostFieldError
from pipelines.sources.formats.schema_registry import RegisteredSchema, RegistryAway, registry_of
from transforms.definitions import EventSource
from transforms.errors import ConfigError

__all__ = ["TopicPlan", "topic_plans"]

_KINDS = {"json": "", "json_schema": "JSON", "avro": "AVRO", "protobuf": "PROTOBUF"}


@dataclass(frozen=True)
class TopicPlan:
    """A source's topic: its ``format``, the ``subject`` whose newest schema was looked at (empty: none was); ``wrong``: what will not be
    read and what becomes of it (empty: nothing is known to be wrong); ``notes``: what cannot be told."""

    source: str
    topic: str
    format: str
    subject: str = ""
    wrong: str = ""
    notes: tuple[str, ...] = ()


class _Registry:
    """The schema registry of the settings; once it failed it is asked no more, and what it said holds for every topic."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.kafka = kafka
        self.failed: RegistryAway | ConfigError | None = None

    def newest(self, subject: str) -> RegisteredSchema | None:
        """The newest schema of a subject. Raises RegistryAway, ConfigError."""
        if self.failed is None:
            try:
                return registry_of(self.kafka).version(subject)
            except (RegistryAway, ConfigError) as error:
                self.failed = error
        raise self.failed


def topic_plans(sources: Iterable[EventSource], kafka: KafkaSettings) -> tuple[TopicPlan, ...]:
    """Of sources with a topic each. The registry is asked, and nothing else; one that fails is a note, if the source can do without."""
    registry = _Registry(kafka)
    return tuple(_topic_plan(source, registry) for source in sources)


def _topic_plan(source: EventSource, registry: _Registry) -> TopicPlan:
    form, notes = registry.kafka.format_of(source.name), list[str]()
    subject = wrong = ""
    try:
        made = record_format(source, registry.kafka)
    except LostFieldError as error:  # by a descriptor
        return TopicPlan(source.name, source.topic, form, "", f"{error}: {_becomes(source, error.field)}")
    except ConfigError as error:
        return TopicPlan(source.name, source.topic, form, "", f"{error}: the stream does not start")
    try:
        subject, wrong = _other_kind(source, registry, form)
        if not wrong:
            subject = made.check_schema(notes.append)
    except LostFieldError as error:
        subject, wrong = f"{source.topic}-value", f"{error}: {_becomes(source, error.field)}"
    except (RegistryAway, ConfigError) as error:
        if form == "json":  # which reads without a registry
            notes.append(f"{error}: whether its records are plain JSON cannot be told")
        elif isinstance(error, RegistryAway):
            notes.append(f"{error}: whether its newest schema has all fields cannot be told")
        else:
            wrong = str(error)
    return TopicPlan(source.name, source.topic, form, subject, wrong, tuple(notes))


def _other_kind(source: EventSource, registry: _Registry, form: str) -> tuple[str, str]:
    """The subject of a topic, and what is wrong where its newest schema is of another format than the source's."""
    kafka = registry.kafka
    if not kafka.schema_registry or form not in _KINDS or kafka.format_options.get(source.name, {}).get("descriptor"):
        return "", ""
    subject = f"{source.topic}-value"
    found = registry.newest(subject)
    if found is None or found.kind == _KINDS[form]:
        return subject if found else "", ""
    named = next((name for name, kind in _KINDS.items() if kind == found.kind), found.kind.lower())
    fix = f"set kafka: {{formats: {{{source.name}: {named}}}}}"
    if named == "json_schema":
        why = "what serializers write by it begins with its id, and is a dead letter (malformed)"
        return subject, f"the newest schema of {subject} is JSON Schema, and {form} is read: {why}; {fix}"
    reason = "malformed or invalid_utf8" if form == "json" else "unknown_schema"
    return subject, f"the newest schema of {subject} is {found.kind}, and {form} is read: such records are dead letters ({reason}); {fix}"


def _becomes(source: EventSource, field: str) -> str:
    """What becomes of records that have nothing where a field stands."""
    if field == source.event_time:
        return "its records are dead letters (missing_timestamp)"
    return "its records are dead letters (missing_field)" if source.field(field).required else "it is null in its records"
