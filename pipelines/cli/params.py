"""``--params FILE`` of every command: its options from a YAML or JSON file. Light: YAML is loaded where a file is given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import typer

from pipelines.cli.common_option import give_option
from pipelines.cli.renamed import renamed_of, warn
from transforms.errors import ConfigError

__all__ = ["take_params"]

NAME = "--params"


def take_params(command: Any) -> None:
    """Give a command, and those below it, the option. What stands on the command line goes over the file, the file over the defaults."""
    give_option(command, NAME, "FILE", "Read options from a YAML or JSON file, by name (start: 2024-03-04); flags override it.", _read)


def _read(context: typer.Context, file: str | None) -> None:
    if file is not None:
        context.default_map = {**(context.default_map or {}), **_values(context, Path(file))}


def _values(context: typer.Context, file: Path) -> dict[str, Any]:
    """The file's values by the names of the command's parameters. Raises ConfigError, one line."""
    from serving.yaml_text import yaml_mapping

    given = yaml_mapping(file, f"{NAME} {file}", "write options by name, such as start: 2024-03-04", names=1)
    options = [(opt, p) for p in context.command.params for opt in p.opts if opt.startswith("--") and opt not in (NAME, "--help")]
    known: dict[str, Any] = {opt.lstrip("-"): p for opt, p in options}
    out: dict[str, Any] = {}
    renamed = renamed_of(context)
    for key, value in given.items():
        name = str(key).replace("_", "-")
        if (now := renamed.get(f"--{name}")) is not None:
            warn(f"{name} in {NAME} {file}", now.lstrip("-"))
            name = now.lstrip("-")
        parameter = known.get(name)
        if parameter is None:
            raise ConfigError(f"{NAME} {file}: {key!r} is not an option of this command; its options are {', '.join(sorted(known))}")
        if value is not None:
            out[parameter.name] = _as_given(value, parameter, f"{NAME} {file}: {key}")
    return out


def _as_given(value: Any, parameter: Any, where: str) -> Any:
    """A value as the command line would have given it: texts, several where several may be given, NAME=VALUE of a mapping."""
    if isinstance(value, Mapping):
        value = [f"{name}={_text(one)}" for name, one in value.items()]
    if parameter.multiple:
        return [_text(one) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise ConfigError(f"{where} takes one value, not {len(value)}")
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ConfigError(f"{where} is {value!r}; write true or false")
        return value
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
