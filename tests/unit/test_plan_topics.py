"""What ``tandem plan`` says of topics where the schema registry does not help; and what it hashes of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.planning.topic_plan import TopicPlan, topic_plans
from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.reading import reading_of
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.definitions import EventSource, Field

SOURCES = [
    EventSource(name, [Field("id", "string", required=True), Field("n", "int64")], "at", "id", topic=f"shop.{name}")
    for name in ("a", "b", "c", "d")
]


def planned(registry: SchemaRegistry, **formats: str) -> list[TopicPlan]:
    return list(topic_plans(SOURCES, KafkaSettings(schema_registry=registry.url, formats=formats)))


@pytest.mark.parametrize(("status", "said"), [(500, "answers with status 500"), (401, "refuses us (status 401)"), (418, "does not answer")])
def test_a_registry_that_fails_is_asked_once_and_plain_json_does_not_need_it(status: int, said: str) -> None:
    with schema_registry() as registry:
        registry.broken = status
        found = planned(registry)
        assert len(registry.requests) == 1
        assert [t.wrong for t in found] == [""] * 4 and all(
            said in t.notes[0] and t.notes[0].endswith("are plain JSON cannot be told") for t in found
        )
        (avro, *rest) = planned(registry, a="avro")
        assert len(registry.requests) == 2 and [t.wrong for t in rest] == [""] * 3
        assert said in (avro.wrong if status != 500 else avro.notes[0])


def test_records_with_the_id_of_a_json_schema_are_no_plain_json() -> None:
    schema = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}, "at": {"type": "string"}}}
    with schema_registry() as registry:
        registry.register("shop.a-value", schema, kind="JSON")
        registry.register("shop.b-value", schema, kind="JSON")
        a, b, c, _ = planned(registry, b="json_schema")
        assert "begins with its id, and is a dead letter (malformed); set kafka: {formats: {a: json_schema}}" in a.wrong
        assert (b.wrong, b.subject, c.wrong, c.notes) == ("", "shop.b-value", "", ())


def test_secrets_are_in_no_hash_of_settings_and_any_text_may_be_one(tmp_path: Path) -> None:
    def options(**given: Any) -> str:
        return reading_of("a", KafkaSettings(format_options={"a": given}))["options"]

    assert options(token="a") == options(token="b") and options(url="http://u:a@h/x") == options(url="http://u:b@h/x")
    assert options(message="a") != options(message="b")
    assert options(message="x" * 300) != options(message="x" * 5000) and options(message="a\0")
