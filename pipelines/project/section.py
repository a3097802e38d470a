"""What sections of the settings are made of: their base, names of extensions, moments and lengths of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from pipelines.project.extensions import Extensions
from transforms.errors import ConfigError

__all__ = ["Section", "all_found", "parse_duration", "parse_time"]


def parse_time(text: Any) -> datetime:
    """A moment of UTC from ``2013-01-31`` or an ISO 8601 date and time (without a zone: UTC). Raises ValueError."""
    moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment} lies outside of the years 1 to 9999 in UTC") from None


_LONGEST_SECONDS = 365_000 * 86_400


def parse_duration(text: str) -> timedelta:
    """A length of time from ``90s``, ``30m``, ``1h`` or ``1d``, of a thousand years at most (now less it is a date). Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is not a duration; use 90s, 30m, 1h or 1d")
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"{text[:80]!r} is more than a thousand years; give a shorter time")
    return timedelta(seconds=seconds)


class Section(BaseModel):
    """A section of the settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Names = TypeVar("Names", dict[str, str], list[str])


def all_found(extensions: Extensions, names: Names) -> Names:
    """``names`` (or the values of a mapping), if each is the name of an extension. Raises ValueError."""
    for name in names.values() if isinstance(names, dict) else names:
        try:
            extensions.find(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None  # pydantic's own way to say what is wrong with a key
    return names
