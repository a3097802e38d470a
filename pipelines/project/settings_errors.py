"""A mistake in the settings as one line: key, value (but never a secret), fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipelines.lake.private import sounds_secret
from pipelines.project.secrets import Secret, masked, secret_fields

__all__ = ["mistake"]


def mistake(settings: type[BaseModel], error: ValidationError) -> str:
    """The first mistake."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    known = f"; known keys: {', '.join(_keys(settings, first['loc'][:-1]))}" if first["type"] == "extra_forbidden" else ""
    return f"{key}: {first['msg']}{_shown(settings, first['loc'], first)}; correct it or drop the key{known}"


def _keys(settings: type[BaseModel], section: Sequence[int | str]) -> list[str]:
    model: Any = settings
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _shown(settings: type[BaseModel], path: Sequence[int | str], error: Any) -> str:
    """What was given, as far as it may be shown: no secret, nothing that may hold one, and no value of an unknown key beside secrets or
    called like one (a secret's name, mistyped, has a secret's value)."""
    model: Any = settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None and (secret_fields(model, nested=False) or sounds_secret(str(part))):
            return ""
        if field is not None and (not field.repr or Secret in (field.annotation, *get_args(field.annotation))):
            return ""
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    else:
        if secret_fields(model):
            return ""
    return f" (got {masked(repr(error['input']))})"
