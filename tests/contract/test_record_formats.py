"""Both record formats are held to the contract that ships; Avro with a schema registry over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.project.config import KafkaSettings, load_settings
from pipelines.project.extensions import FORMATS
from pipelines.sources.formats.record_format import record_format
from tandem.testing.formats import SOURCES, RecordFormatContract
from tests.schema_registry import schema_registry
from transforms.errors import ConfigError


class TestJson(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "json"


class TestAvro(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "avro"

    @pytest.fixture
    def kafka_settings(self) -> Iterator[KafkaSettings]:
        with schema_registry() as running:
            yield KafkaSettings(schema_registry=running.url)


class TestJsonSchema(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "json_schema"

    @pytest.fixture
    def kafka_settings(self) -> Iterator[KafkaSettings]:
        with schema_registry() as running:
            yield KafkaSettings(schema_registry=running.url)


class TestCsv(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "csv"

    @pytest.fixture
    def kafka_settings(self) -> KafkaSettings:
        return KafkaSettings(format_options={s.name: {"nulls": ["\\N"]} for s in SOURCES.values()})  # "" is a text here


class TestProtobuf(RecordFormatContract):
    @pytest.fixture
    def format_name(self) -> str:
        return "protobuf"

    @pytest.fixture
    def kafka_settings(self) -> Iterator[KafkaSettings]:
        with schema_registry() as running:
            yield KafkaSettings(schema_registry=running.url)


def test_a_format_that_nobody_brings_is_one_line_that_lists_the_known(tmp_path):
    (tmp_path / "tandem.yaml").write_text("kafka: {formats: {departures: xml}}\n")
    with pytest.raises(ConfigError) as e:
        load_settings(tmp_path)
    assert "kafka.formats: Value error, 'xml' is not a known record format; known: avro, " in str(e.value)
    assert "json" in str(e.value) and "tandem.formats" in str(e.value) and "\n" not in str(e.value)


def test_options_that_a_format_does_not_take_are_one_line() -> None:
    settings = KafkaSettings(format_options={"few": {"delimiter": ";"}})
    with pytest.raises(ConfigError, match=r"kafka\.format_options\.few\.delimiter: .*known keys: none"):
        record_format(SOURCES["a number identifies"], settings)


def test_every_format_of_ours_is_there() -> None:
    names = ["JsonFormat", "JsonSchemaFormat", "AvroFormat", "CsvFormat", "ProtobufFormat"]
    assert [FORMATS.load(name).__name__ for name in FORMATS.own] == names
