"""Settings: ``tandem.yaml`` in the feature repository < environment (``TANDEM_``, nested by ``__``) < flags.

Light: the command line reads it before anything heavy is imported.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipelines.lake import layout, shared
from pipelines.project.access_settings import AccessSettings
from pipelines.project.extensions import FORMATS, TRACKERS
from pipelines.project.secrets import EnvironmentSource, Secret, SecretSource, bind, masked
from pipelines.project.section import Section, all_found, parse_duration, parse_time
from pipelines.project.settings_errors import mistake
from pipelines.project.settings_file import SettingsFile
from pipelines.project.watch_settings import AlertSettings, FeatureMonitor, MonitorSettings, WatchSettings
from serving.object_store.cache import data_path
from transforms.errors import ConfigError

__all__ = [
    "AccessSettings",
    "AlertSettings",
    "BatchSettings",
    "DemoSettings",
    "FeatureMonitor",
    "KafkaSettings",
    "MonitorSettings",
    "Settings",
    "StreamSettings",
    "TrackingSettings",
    "WatchSettings",
    "data_for_feast",
    "load_settings",
    "moment",
    "parse_duration",
    "parse_time",
    "read_settings",
]


def moment(flag: str, text: str | None, default: datetime | None = None) -> datetime:
    """The moment a flag names, in UTC; raises ConfigError."""
    if text is None:
        if default is None:
            raise ConfigError(f"{flag} is missing; give a date such as {flag} 2013-01-01")
        return default
    try:
        return parse_time(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a time; use 2013-01-31 or 2013-01-31T06:00") from None


class BatchSettings(Section):
    """How ``tandem batch`` works."""

    shards: int = Field(default=2, ge=1, le=4096)
    """Parts that the entities are spread over; each is windowed by itself."""
    slice_days: int = Field(default=7, ge=1)
    """Days of rows made (and held in memory) at a time per shard; at least the longest window."""
    learn_rows: int = Field(default=4_000_000, ge=1)
    """Rows of a group that one worker learns from at a time, in order of their files; what a graph is made of follows from all of them."""
    split_bytes: int = Field(default=64 << 20, ge=1024)
    """A file of events with more bytes is read in parts of that many, each by whichever worker is free, where its format can be
    divided, and there are several workers."""
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    """Share of rejected events above which a run fails before anything becomes visible."""
    max_future_hours: float = Field(default=0.1, ge=0)
    """How far ahead of the clock, as the run begins, an event time may lie; of a stream, how far ahead of its record (``stream``)."""


class KafkaSettings(Section):
    """Where the topics are, and how to get in."""

    bootstrap_servers: str = ""
    """``host:port,host:port``; empty: the broker of ``tandem up``."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = Field(default=None, repr=False)
    """Better not in the file: see :mod:`pipelines.project.secrets`."""
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    dead_letters: str = "tandem.dead_letters"
    """The topic that takes rejected records."""
    dead_letter_seconds: float = Field(default=30, ge=1)
    """How long writing dead letters may take before they are kept in the data folder, and the stream goes on."""
    schema_registry: str = ""
    """Address of a Confluent-compatible schema registry, for formats that need one (Avro)."""
    schema_registry_username: str | None = None
    schema_registry_password: Secret | None = Field(default=None, repr=False)
    """The same."""
    formats: dict[str, str] = Field(default_factory=dict)
    """How a source's records are encoded, by its name: ``json`` (unless said), ``avro``, ``protobuf``, or a format that another
    package brings."""
    format_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of a source's format, by the source's name, where its format has some. Paths in them are relative to the repository."""
    _repository: Path = PrivateAttr(default=Path())

    @field_validator("formats")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        return all_found(FORMATS, value)

    @property
    def repository(self) -> Path:
        """The feature repository that these are the settings of, absolute; the working folder for settings made by hand."""
        return self._repository

    def within(self, repository: Path) -> None:
        """Take paths of formats as relative to this folder."""
        self._repository = repository.resolve()

    def format_of(self, source: str) -> str:
        """The name of a source's format."""
        return self.formats.get(source, "json")


class StreamSettings(Section):
    """How ``tandem stream`` works."""

    shards: int = Field(default=2, ge=1, le=4096)
    """Parts that the entities are spread over; each is folded by itself."""
    tick_ms: int = Field(default=25, ge=10)
    """How often each partition is polled."""
    poll_records: int = Field(default=20_000, ge=1)
    """Records taken from a partition per tick at most."""
    clock: Literal["live", "replay"] = "live"
    """What moves the watermark of an idle partition: the wall clock (live), or nothing: it is left out (replay)."""
    idle_seconds: float = Field(default=30, gt=0)
    """A partition read to its end that brings nothing for so long is idle."""
    max_reject_share: float = Field(default=0.05, ge=0, le=1)
    """Share of rejects among the last records of a partition above which it is paused."""
    reject_window: int = Field(default=1000, ge=1)
    """Records that the share is taken over."""
    max_late_share: float = Field(default=0.2, ge=0, le=1)
    """Share of events too late to count among the last records of a partition above which the stream says so."""
    pause_when_late: bool = False
    """Whether such a partition is paused, as for its rejects."""
    max_future_hours: float = Field(default=0.1, ge=0)
    """How far an event time may lie ahead of its record's timestamp (else it is a reject), and ahead of its partition and move it alone."""
    checkpoint_seconds: float = Field(default=10, gt=0)
    """How often Flink keeps its state."""
    checkpoints: str = ""
    """Where a Flink cluster keeps them: a URL that all its machines reach (s3://... by a plugin of Flink); empty: the data folder, or with
    data on an object store nowhere."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of ``/metrics``; 0 takes a free one (``tandem stream status`` tells it)."""
    metrics_host: str = "127.0.0.1"
    """Address of ``/metrics``, which asks nobody who they are; in a container ``0.0.0.0``."""

    @field_validator("checkpoints")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and not (parts.scheme and parts.path.startswith("/") and parts.path.strip("/")):
            raise ValueError("use a URL with a path, such as s3://bucket/flink or file:///mnt/flink")
        return value


class DemoSettings(Section):
    """What ``tandem demo`` runs over."""

    events: str = ""
    """``module:function`` of the repository that writes the event logs: ``(data, start, end, progress) -> {source: events}``."""
    start: datetime | None = None
    end: datetime | None = None
    warm_up_days: int = Field(default=7, ge=0)
    """Days at the start that fill the windows before the first training example is taken."""
    stream_days: int = Field(default=3, ge=0)
    """Days after the end that pass through Kafka; 0: the demo ends with the batch half."""

    @field_validator("start", "end", mode="before")
    @classmethod
    def _utc(cls, value: Any) -> Any:
        return value if value is None else parse_time(value)


class TrackingSettings(Section):
    """Where runs are shown: MLflow, Weights & Biases, or what another package brings. A tracker that is down never stops a job."""

    trackers: list[str] = Field(default_factory=lambda: ["mlflow"])
    """Who gets each run, by name: ``mlflow``, ``wandb``, or a tracker of another package; an empty list: nobody."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of trackers of other packages, by the tracker's name."""
    uri: str = Field(default="", repr=False)
    """MLflow's server, e.g. ``http://mlflow:5000``; empty: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the data folder."""
    experiment: str = "tandem"
    """MLflow's experiment, and the project of Weights & Biases."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """Offline: runs are written to the data folder, for ``wandb sync``; online needs ``WANDB_API_KEY``."""
    retry_seconds: float = Field(default=30, ge=0)
    """How long a delivery in the background keeps trying; what is left goes with the next run."""
    wait_seconds: float = Field(default=0, ge=0)
    """How long a job waits at its end until its run is delivered; for containers that end with their job."""

    @field_validator("trackers")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return all_found(TRACKERS, value)


class Settings(BaseSettings):
    """Everything that can be configured; unknown keys are errors."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data: Path = Path("../data")
    """The data folder, relative to the feature repository; or ``s3://bucket/prefix``, ``gs://``, ``az://``: then it is this machine's
    cache folder of that place (docs/object-stores.md)."""
    definitions: str = "features"
    """The module of the repository that defines sources and feature groups."""
    models: list[str] = Field(default_factory=list)
    """Models to train, as ``module:object``."""
    batch: BatchSettings = Field(default_factory=BatchSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    serve: dict[str, Any] = Field(default_factory=dict)
    """Settings of the server, see ``tandem serve --help``."""
    access: AccessSettings = Field(default_factory=AccessSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    watch: WatchSettings = Field(default_factory=WatchSettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    demo: DemoSettings = Field(default_factory=DemoSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)

    @field_validator("data", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        try:
            return data_path(value) if isinstance(value, str | Path) else value
        except ConfigError as error:
            raise ValueError(str(error)) from None  # pydantic's own way to say what is wrong with a key

    def request_log(self, repo: Path) -> Path | None:
        """The folder of the request log of the repository at ``repo``; None where it is turned off (null)."""
        log = self.serve.get("request_log", layout.requests(self.data))
        return repo / log if log else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then where secrets are kept, then the file."""
        return (
            init_settings,
            EnvironmentSource(settings_cls, env_settings),
            SecretSource(settings_cls),
            SettingsFile(settings_cls, cls.model_config.get("yaml_file")),
        )


@lru_cache(16)
def _settings_of(path: Path) -> type[Settings]:
    """The settings of one file: pydantic builds a class in more time than it reads the file."""
    own = {"model_config": {**Settings.model_config, "yaml_file": path}, "__doc__": Settings.__doc__}
    return type("Settings", (Settings,), own)


def read_settings(repo: Path, **flags: Any) -> Settings:
    """As :func:`load_settings`, but ``data`` as it was given, and nothing asked of the data folder."""
    path = repo / "tandem.yaml"
    if not repo.is_dir():
        raise ConfigError(f"--repo {repo}: no such folder; give a feature repository, or create one with 'tandem init'")
    if not path.is_file() and (path.exists() or path.is_symlink()):
        raise ConfigError(f"{path} is no file (a folder, or a link to nothing), so nothing in it would be a setting; remove it")
    try:
        settings = _settings_of(path)(**{k: v for k, v in flags.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {mistake(Settings, error)}") from None
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path.name} cannot be read: {masked(str(error).splitlines()[0])}; it must be a YAML mapping") from None
    bind(settings, repo, read_settings)
    settings.kafka.within(repo)
    return settings


def load_settings(repo: Path, **flags: Any) -> Settings:
    """The settings of a repository, ``data`` made absolute; ``flags`` that are None are left out.

    Raises ConfigError, one line that names key, value (but no secret) and fix; DataError for a data folder of another version's format,
    and for an object store that cannot be reached.
    """
    settings = read_settings(repo, **flags)
    data = settings.data if settings.data.is_absolute() else (repo / settings.data)
    settings = settings.model_copy(update={"data": data.resolve()})
    layout.check_format(settings.data)
    shared.open_data(settings.data)
    return settings


def data_for_feast(repo: Path) -> str:
    """The data folder as Feast's registry is to keep it: relative to the repository where it was given so, so that both may be moved."""
    given = read_settings(repo).data
    return str(given.resolve()) if given.is_absolute() else given.as_posix()
