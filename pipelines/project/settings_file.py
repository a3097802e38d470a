"""``tandem.yaml`` as pydantic-settings reads it, but for keys that are there twice: the last one would win in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_settings import YamlConfigSettingsSource

from serving.yaml_text import RepeatedKey, yaml_value
from transforms.errors import ConfigError

__all__ = ["SettingsFile"]


class SettingsFile(YamlConfigSettingsSource):
    """The file's values. Raises ConfigError for a repeated key, and yaml.YAMLError for what is no YAML."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            found = yaml_value(Path(file_path).read_bytes()) or {}
        except RepeatedKey as error:
            raise ConfigError(f"{Path(file_path).name}: {error}") from None
        # A section of which every line is a comment is as one that is left out.
        return {name: value for name, value in found.items() if value is not None} if isinstance(found, dict) else found
