"""What is asked of ``tandem stream``: checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.project.extensions import ENGINES
from pipelines.streaming.engines.stream_engine import Engine, EngineOptions
from transforms.errors import ConfigError

__all__ = ["StreamOptions"]


@dataclass(frozen=True)
class StreamOptions:
    """None stands for the settings' value. Raises ConfigError for flags that do not go together."""

    name: str = "main"
    runner: str = "flink"
    until: Literal["latest"] | None = None
    from_run: str | None = None
    reset: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    """The engine's own settings by name."""
    savepoint: str | None = None
    shards: int | None = None
    parallelism: int = 1
    metrics_port: int | None = None
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.until not in (None, "latest"):
            raise ConfigError(f"--until {self.until}: only 'latest' can be given, the ends of the topics as they are at the start")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--name {self.name!r}: use letters, digits, '-' and '_'")
        if not 1 <= self.parallelism <= 128:
            raise ConfigError(f"--parallelism {self.parallelism}: give 1 to 128")
        engine = self.engine()
        if self.until is None and not engine.endless:
            raise ConfigError(f"--runner {self.runner} reads existing records and ends; give --until latest, or use --runner flink")
        engine.check(self.engine_options(Path()))

    def engine(self) -> type[Engine]:
        """The engine that is asked for; ``flink`` with a cluster's address is the cluster. Raises ConfigError."""
        name = "flink-cluster" if self.runner == "flink" and "flink_master" in self.given else self.runner
        try:
            found: type[Engine] = ENGINES.load(name)
        except ConfigError as error:
            raise ConfigError(f"--runner {self.runner}: {error}") from None
        return found

    def engine_options(self, folder: Path, preload: tuple[str, ...] = (), repo: Path = Path(), data: Path = Path()) -> EngineOptions:
        """What the engine is given; ``folder`` is the stream's."""
        return EngineOptions(
            name=f"tandem-{self.name}",
            folder=folder,
            parallelism=self.parallelism,
            given=self.given,
            savepoint=self.savepoint,
            preload=preload,
            beam_args=self.beam_args,
            repo=repo,
            data=data,
        )
