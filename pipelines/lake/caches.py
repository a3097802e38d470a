"""Where Tandem keeps on a machine what it can make again. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(part: str) -> Path | None:
    """``$XDG_CACHE_HOME/tandem/<part>``, by default below ``~/.cache``; None where nobody has a home. It need not be there."""
    configured = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(configured).absolute() if configured else Path.home() / ".cache") / "tandem" / part
    except RuntimeError:
        return None
