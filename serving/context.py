"""One request on its way through the server: its id, who asks, and until when an answer is wanted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.errors import TimedOutError
from serving.principals import ANYBODY, Principal

__all__ = ["NOBODYS", "RequestContext", "usable_id"]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def usable_id(text: str) -> bool:
    """Whether a caller's id of a request is one to keep: at most 128 visible characters of ASCII."""
    return _REQUEST_ID.fullmatch(text) is not None


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
