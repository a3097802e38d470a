"""A server that is told to stop while it begins."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvicorn

from serving.server import _Server


def test_a_signal_while_it_begins_ends_the_application_in_order() -> None:
    """uvicorn returned at once: the application was never ended, and Ctrl-C cancelled it with a trace."""
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        while True:
            event = (await receive())["type"]
            told.append(event)
            if event == "lifespan.startup":
                server.handle_exit(signal.SIGINT, None)
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return

    server = _Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    asyncio.run(server._serve())
    assert told == ["lifespan.startup", "lifespan.shutdown"]
    assert server.started
