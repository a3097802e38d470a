"""What other packages may bring under a name: commands, brokers, formats of records and of files, engines of the stream, trackers,
alert receivers. Each is an entry point of its group.

Light: names of our own are known without looking at what is installed, and nothing is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from inspect import get_annotations
from typing import Any

from transforms.errors import ConfigError

__all__ = [
    "ALERT_RECEIVERS",
    "BROKERS",
    "ENGINES",
    "FILE_FORMATS",
    "FORMATS",
    "TABLES",
    "TRACKERS",
    "Extensions",
    "lacking",
    "owner",
    "reason",
]


@dataclass(frozen=True)
class Extensions:
    """The things of one kind, by name: ``own`` as ``"module:attribute"``, and the entry points in ``group``, which have the same form."""

    what: str
    """What one of them is called in messages."""
    group: str
    own: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    """``module:class`` that each of them is below; "": they are no classes."""

    def ours(self) -> dict[str, EntryPoint]:
        """Our own by name, in their order."""
        return {name: EntryPoint(name, reference, self.group) for name, reference in self.own.items()}

    def installed(self) -> list[EntryPoint]:
        """Those of other packages, in order of their names; also such as have a name of ours, which stays ours."""
        return sorted(entry_points(group=self.group), key=lambda p: p.name)

    def find(self, name: str) -> EntryPoint:
        """The one of that name. Raises ConfigError with the known ones if there is none."""
        if name in self.own:  # without a look at what is installed
            return self.ours()[name]
        points = {p.name: p for p in self.installed()}
        if name not in points:
            known = ", ".join(sorted({*points, *self.own})) or "none"
            raise ConfigError(
                f"{name!r} is not a known {self.what}; known: {known} (a package may bring more: entry point group {self.group})"
            )
        return points[name]

    def load(self, name: str) -> Any:
        """The thing of that name, imported: of kinds with a :attr:`base` a class below that, with all that it must have.

        Raises ConfigError, one line, where there is none, its package cannot be imported, or it is no such class."""
        point = self.find(name)
        try:
            made = point.load()
        except Exception as error:
            raise ConfigError(
                f"{self.what} {name!r} of {owner(point)} cannot be loaded: {reason(error)}; install its dependencies, or fix the package"
            ) from error
        if self.base:
            base = EntryPoint(self.what, self.base, self.group).load()
            if not (isinstance(made, type) and issubclass(made, base)):
                raise ConfigError(f"{self.what} {name!r}: {made!r} is not a subclass of {base.__name__}; fix the package that provides it")
            if lacks := lacking(made):
                raise ConfigError(
                    f"{self.what} {name!r} of {owner(point)}: {made.__module__}.{made.__qualname__} lacks {', '.join(lacks)},"
                    f" which every {base.__name__} has; add what is missing"
                )
        return made


def lacking(made: type) -> list[str]:
    """What the class must still have: class attributes that a base declares without a value, and abstract methods, as ``method()``."""
    declared = (n for of in reversed(made.__mro__) for n, kind in get_annotations(of).items() if "ClassVar" in str(kind))
    attributes = [n for n in dict.fromkeys(declared) if not hasattr(made, n)]
    return attributes + sorted(f"{n}()" for n in getattr(made, "__abstractmethods__", ()))


BROKERS = Extensions(
    "broker",
    "tandem.brokers",
    {"kafka": "pipelines.sources.kafka.kafka_client:KafkaBroker", "memory": "pipelines.sources.memory:MemoryBroker"},
    "pipelines.sources.broker:Broker",
)
"""Classes below :class:`pipelines.sources.broker.Broker`, by the scheme of ``kafka.bootstrap_servers``."""
ENGINES = Extensions(
    "engine",
    "tandem.engines",
    {
        "flink": "pipelines.streaming.engines.flink:FlinkEngine",
        "flink-cluster": "pipelines.streaming.engines.cluster:FlinkClusterEngine",
        "direct": "pipelines.streaming.engines.direct:DirectEngine",
    },
    "pipelines.streaming.engines.stream_engine:Engine",
)
"""Classes below :class:`pipelines.streaming.engines.stream_engine.Engine`."""
FORMATS = Extensions(
    "record format",
    "tandem.formats",
    {
        "json": "pipelines.sources.formats.json_format:JsonFormat",
        "json_schema": "pipelines.sources.formats.json_schema_format:JsonSchemaFormat",
        "avro": "pipelines.sources.formats.avro_format:AvroFormat",
        "csv": "pipelines.sources.formats.csv_format:CsvFormat",
        "protobuf": "pipelines.sources.formats.protobuf_format:ProtobufFormat",
    },
    "pipelines.sources.formats.record_format:RecordFormat",
)
"""Classes below :class:`pipelines.sources.formats.record_format.RecordFormat`."""
FILE_FORMATS = Extensions(
    "file format",
    "tandem.file_formats",
    {
        "parquet": "pipelines.sources.file_formats.parquet_file:ParquetFile",
        "jsonl": "pipelines.sources.file_formats.json_lines_file:JsonLinesFile",
        "ndjson": "pipelines.sources.file_formats.json_lines_file:JsonLinesFile",
        "json": "pipelines.sources.file_formats.json_lines_file:JsonLinesFile",
        "avro": "pipelines.sources.file_formats.avro_file:AvroFile",
        "arrow": "pipelines.sources.file_formats.arrow_file:ArrowFile",
        "arrows": "pipelines.sources.file_formats.arrow_file:ArrowFile",
        "feather": "pipelines.sources.file_formats.arrow_file:ArrowFile",
        "ipc": "pipelines.sources.file_formats.arrow_file:ArrowFile",
        "csv": "pipelines.sources.file_formats.csv_file:CsvFile",
        "tsv": "pipelines.sources.file_formats.csv_file:CsvFile",
        "txt": "pipelines.sources.file_formats.csv_file:CsvFile",
    },
    "pipelines.sources.file_formats.file_format:FileFormat",
)
"""Classes below :class:`pipelines.sources.file_formats.file_format.FileFormat`, by the suffix of a file's name."""
TABLES = Extensions(
    "table",
    "tandem.tables",
    {
        "delta": "pipelines.sources.tables.delta_table:DeltaReader",
        "iceberg": "pipelines.sources.tables.iceberg_table:IcebergReader",
        "query": "pipelines.sources.tables.query_table:QueryTable",
    },
    "pipelines.sources.tables.table_reader:TableReader",
)
"""Classes below :class:`pipelines.sources.tables.table_reader.TableReader`, by the ``kind`` of a declared table."""
TRACKERS = Extensions(
    "tracker",
    "tandem.trackers",
    {"mlflow": "pipelines.tracking.mlflow:MlflowTracker", "wandb": "pipelines.tracking.wandb:WandbTracker"},
    "pipelines.tracking.tracker:Tracker",
)
"""Classes below :class:`pipelines.tracking.tracker.Tracker`."""
ALERT_RECEIVERS = Extensions(
    "alert receiver",
    "tandem.alert_receivers",
    {"webhook": "pipelines.alerting.webhook:Webhook"},
    "pipelines.alerting.receiver:AlertReceiver",
)
"""Classes below :class:`pipelines.alerting.receiver.AlertReceiver`."""


def owner(point: EntryPoint) -> str:
    """The package that brings an entry point; where that is not known, the module."""
    return point.dist.name if point.dist else point.value


def reason(error: Exception) -> str:
    """An error of somebody else's code, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
