"""``tandem.yaml`` as pydantic-settings reads it, but for keys that are there twice: the last one would win in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic_settings import BaseSettings, YamlConfigSettingsSource

from serving.yaml_text import RepeatedKey, yaml_value
from transforms.errors import ConfigError

__all__ = ["SettingsFile"]


class SettingsFile(YamlConfigSettingsSource):
    """The file's values. Raises ConfigError for a repeated key, and yaml.YAMLError for what is no YAML."""

    def __init__(self, settings_cls: type[BaseSettings], yaml_file: Any) -> None:
        # Those with parts of their own, which are none by default.
        self._sections = {name for name, field in settings_cls.model_fields.items() if field.default_factory is not None}
        super().__init__(settings_cls, yaml_file)  # reads the file

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            found = yaml_value(Path(file_path).read_bytes()) or {}
        except RepeatedKey as error:
            raise ConfigError(f"{Path(file_path).name}: {error}") from None
        # A section or a list of which every line is a comment is as one that is left out. Any other key without a value is a mistake: an
        # empty data: would be another folder, and an empty unknown one a slip in its name.
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if value is not None or name not in self._sections}
        return cast(dict[str, Any], found)
