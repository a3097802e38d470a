"""``tandem.yaml`` as pydantic-settings reads it, but for keys that are there twice: the last one would win in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, YamlConfigSettingsSource

from serving.yaml_text import yaml_mapping

__all__ = ["SettingsFile"]

_NAMES = 4
"""Mappings within each other whose keys are names: kafka, format_options, a format, its options; what is within an option is its own."""


class SettingsFile(YamlConfigSettingsSource):
    """The file's values. Raises ConfigError for what is no YAML mapping, or cannot be read."""

    def __init__(self, settings_cls: type[BaseSettings], yaml_file: Any) -> None:
        # Those with parts of their own, which are none by default.
        self._sections = {name for name, field in settings_cls.model_fields.items() if field.default_factory is not None}
        super().__init__(settings_cls, yaml_file)  # reads the file

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        path = Path(file_path)
        found = yaml_mapping(path, path.name, "it must be a YAML mapping, such as 'data: data'", _NAMES)
        # A section or a list of which every line is a comment is as one that is left out. Any other key without a value is a mistake: an
        # empty data: would be another folder, and an empty unknown one a slip in its name.
        return {name: value for name, value in found.items() if value is not None or name not in self._sections}
