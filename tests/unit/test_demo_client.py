"""The demo's client: what a server answers, refuses, or does not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.demo.client import post
from tests.webhook_server import WebhookServer
from transforms.errors import TandemError


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    server = WebhookServer()
    yield server
    server.down()


def test_a_refusal_and_a_server_that_is_away_are_one_line(server: WebhookServer) -> None:
    with pytest.raises(TandemError, match="does not answer: Connection refused"):
        post(server.url, {"instances": []})
    server.up()
    server.answers = [(422, {})]
    with pytest.raises(TandemError, match="answered 422"):
        post(server.url, {"instances": [1]})
    assert server.got == [{"instances": [1]}] and server.headers[0]["Content-Type"] == "application/json"
