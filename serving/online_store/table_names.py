"""Feast's tables are called ``<project>_<view>``, and ours beside them end in ``_tandem``: two views of one database may share a name."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.errors import StoreError

__all__ = ["check_tables", "sharing"]


def sharing(project: str, view: str, others: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first of ``others`` (project, view) that has a table of this view's name; None if none has. Databases differ in whether case
    tells names apart: here not."""
    mine = _tables(project, view)
    return next((other for other in others if other != (project, view) and mine & _tables(*other)), None)


def check_tables(project: str, view: str, others: Iterable[tuple[str, str]]) -> None:
    """Raise StoreError where a view's tables are those of one of ``others``: each would read the other's rows, and a materialization of one
    would drop the other's as of another graph."""
    other = sharing(project, view, others)
    if other is not None:
        name = sorted(_tables(project, view) & _tables(*other))[0]
        raise StoreError(
            f"view {view!r} of project {project!r} and view {other[1]!r} of project {other[0]!r} have the same table {name!r} in this"
            " online store; give one of them another name, or its project another database"
        )


def _tables(project: str, view: str) -> set[str]:
    name = f"{project}_{view}".casefold()
    return {name, f"{name}_tandem"}
