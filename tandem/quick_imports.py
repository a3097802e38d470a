"""What libraries do while they are imported and none of our commands needs, left out. Standard library only.

Every command, and every process that one starts, pays for its imports first. Measured on Python 3.11 (CPU of ``import``, before and after):
Feast 3.7 and 1.4 s, Apache Beam 2.0 and 1.2 s. Three things make that up:

* Feast decorates its classes with ``typeguard.typechecked``, which parses and compiles their source anew at each import. The constructors
  keep it, for their arguments are what people write; the other methods go without.
* Google's BigQuery client, which Beam and Feast import, imports ``tqdm.notebook`` and with it all of IPython, for bars in notebooks.
* ``google.api_core`` reads the metadata of all installed packages to word a warning about old Pythons.

Only the processes that Tandem starts call :func:`quicken_imports`: in a notebook or a program of your own nothing is changed.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["quicken_imports"]


def quicken_imports() -> None:
    """Call it before the first import of Feast, Beam or TensorFlow. What was imported before stays as it is; twice is as good as once."""
    _check_constructors_only()
    sys.modules.setdefault("tqdm.notebook", None)  # type: ignore[arg-type]  # an import of it fails, for which its users are prepared
    found = importlib.metadata.packages_distributions
    if getattr(found, "quick", None) is None:
        importlib.metadata.packages_distributions = _named_for(found)


def _check_constructors_only() -> None:
    try:
        import typeguard
    except ImportError:  # an installation without Feast
        return
    checked: Callable[..., Any] = typeguard.typechecked
    if getattr(checked, "quick", None) is not None:
        return

    def typechecked(target: Any = None, **options: Any) -> Any:
        if not isinstance(target, type) or target.__module__.partition(".")[0] != "feast":
            return checked(target, **options)
        if "__init__" in vars(target):
            target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target

    typechecked.quick = True  # type: ignore[attr-defined]
    typeguard.typechecked = typechecked


def _named_for(found: Callable[[], Mapping[str, list[str]]]) -> Any:
    """``packages_distributions`` that answers nothing to Google's clients, who then name a module instead of its package."""

    def packages_distributions() -> Mapping[str, list[str]]:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return {} if asking.startswith("google.") else found()

    packages_distributions.quick = True  # type: ignore[attr-defined]
    return packages_distributions
