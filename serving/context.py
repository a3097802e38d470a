"""One request on its way through the server: its id, who asks, and until when an answer is wanted."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.principals import ANYBODY, Principal
from serving.request_errors import TimedOutError

__all__ = ["NOBODYS", "RequestContext", "new_request_id", "usable_id"]

_IDS_AT_ONCE = 128
_ids: list[str] = []
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def usable_id(text: str) -> bool:
    """Whether a caller's id of a request is one to keep: at most 128 visible characters of ASCII."""
    return _REQUEST_ID.fullmatch(text) is not None


def new_request_id() -> str:
    """128 random bits as 32 hexadecimal digits. Safe for many threads; the kernel is asked for those of many requests at once, as each
    question lets other threads have the interpreter."""
    try:
        return _ids.pop()
    except IndexError:
        text = os.urandom(16 * _IDS_AT_ONCE).hex()
        _ids.extend(text[at : at + 32] for at in range(32, len(text), 32))
        return text[:32]


os.register_at_fork(after_in_child=_ids.clear)


@dataclass(frozen=True)
class RequestContext:
    """What the dataplane knows of a request beside its body. Without arguments: no deadline, anybody, and not logged."""

    request_id: str = ""
    """Made by the server; empty: the request is not logged."""
    client_request: str | None = None
    """The id that the caller gave it."""
    principal: Principal = ANYBODY
    deadline: float = float("inf")
    """By ``clock``: nobody waits for the answer afterwards."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    charge: Callable[[int], None] = field(default=lambda rows: None, repr=False)
    """Is told how many rows the request asks for, before they are read; may refuse them."""

    def check(self) -> None:
        """Raise TimedOutError if the deadline has passed: asked between the steps of the work, so that it stops with it."""
        if self.clock() > self.deadline:
            raise TimedOutError("the time limit passed before the work was done; try again, with fewer rows")


NOBODYS = RequestContext()
"""Of work that no request asked for."""
