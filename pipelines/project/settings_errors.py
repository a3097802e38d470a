"""A mistake in the settings as one line: key, value (but never a secret), fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipelines.lake.private import sounds_secret
from pipelines.project.secrets import Secret, masked, secret_fields

__all__ = ["mistake"]


_FOR_SEVERAL = ("dict_type", "list_type", "set_type", "tuple_type")
"""Errors about one value where several should be."""


def mistake(settings: type[BaseModel], error: ValidationError) -> str:
    """The first mistake."""
    first = error.errors()[0]
    key = ".".join(str(part) if str(part).isprintable() else ascii(part) for part in first["loc"])
    keys = _keys(settings, first["loc"][:-1]) if first["type"] == "extra_forbidden" else []
    known = f"; known keys: {', '.join(keys)}" if keys else ""
    return f"{key}: {first['msg']}{_shown(settings, first['loc'], first)}; correct it or remove the setting{known}"


def _keys(settings: type[BaseModel], section: Sequence[int | str]) -> list[str]:
    """The keys of a section; none where it lies in a list or a mapping."""
    model: type[BaseModel] | None = settings
    for part in section:
        field = model.model_fields.get(str(part)) if model is not None else None
        model = _section(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, or may hold."""
    return next((t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)), None)


def _shown(settings: type[BaseModel], path: Sequence[int | str], error: Any) -> str:
    """What was given, as far as it may be shown: no secret, and no list or mapping, which may hold one. Under an unknown key, and where a
    section should be, a number alone, where no secret may stand: a secret's name, mistyped or in another section, has a secret's text."""
    given, number = error["input"], isinstance(error["input"], int | float | bool)
    if not number and (not isinstance(given, str | None) or error["type"] in _FOR_SEVERAL):
        return ""
    model = settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            if not number or secret_fields(model, nested=False) or sounds_secret(str(part)):
                return ""
            break
        if not field.repr or Secret in (field.annotation, *get_args(field.annotation)):
            return ""
        inner = _section(field.annotation)
        if inner is None:
            break
        model = inner
    else:
        if not number or secret_fields(model):
            return ""
    return f" (got {masked(repr(given))})"
