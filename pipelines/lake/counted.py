"""Numbers of things as people write them: ``1 file``, ``1,204 files``. Light."""

from __future__ import annotations

from collections.abc import Sized

__all__ = ["counted"]


def counted(things: int | Sized, name: str) -> str:
    """How many ``things`` there are (or their number), with ``name``, which takes an s, in its number."""
    n = things if isinstance(things, int) else len(things)
    return f"{n:,} {name}{'s' * (n != 1)}"
