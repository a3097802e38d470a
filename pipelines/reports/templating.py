"""The templates of this package: everything is escaped, and a name that a view lacks is an error, never an empty place."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["TEMPLATES", "macro"]

TEMPLATES = Environment(
    loader=PackageLoader("pipelines.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def macro(template: str, name: str, *values: Any) -> Markup:
    """What a macro of a template draws."""
    return Markup(getattr(TEMPLATES.get_template(template).module, name)(*values))
