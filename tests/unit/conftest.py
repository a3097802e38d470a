"""What the tests of formats start from; a module with other needs has fixtures of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.sources.formats.record_format import Decode, record_format
from tests.schema_registry import SchemaRegistry, schema_registry
from tests.unit.format_messages import SOURCE, settings_of


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    """A schema registry, without a schema."""
    with schema_registry() as running:
        yield running


@pytest.fixture
def judge(registry: SchemaRegistry) -> Decode:
    """The verdicts on Avro messages of the source's topic."""
    return record_format(SOURCE, settings_of(registry)).decode
