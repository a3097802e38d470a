"""The contract of an alert receiver, for the webhook in both of its formats, and for one of another package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.alerting import AlertReceiver, Webhook, open_receiver
from pipelines.project import extensions
from pipelines.project.config import AlertSettings
from pipelines.project.secrets import Secret
from tandem.testing.alert_receiver import NOW, AlertReceiverContract, FarSide, message
from tests.webhook_server import WebhookServer
from transforms.errors import ConfigError


class Hook(FarSide):
    def __init__(self, server: WebhookServer, form: Any) -> None:
        self.server, self.form = server, form
        self.secrets = ("T0", str(server.port), "Bearer abc")

    def receiver(self) -> AlertReceiver:
        return Webhook(AlertSettings(webhook=Secret(self.server.url), format=self.form, secret=Secret("Bearer abc"), timeout_seconds=1))

    def taken(self) -> list[str]:
        if self.form == "json":
            return [body["title"] for body in self.server.taken]
        return [body["text"].split(": ", 1)[1] for body in self.server.taken]

    def down(self) -> None:
        self.server.down()

    def up(self) -> None:
        self.server.up()


class TestWebhook(AlertReceiverContract):
    @pytest.fixture(params=["json", "slack"])
    def far_side(self, request: pytest.FixtureRequest) -> Iterator[FarSide]:
        server = WebhookServer()
        server.up()
        yield Hook(server, request.param)
        server.down()


class Folder(FarSide):
    """Of tandem_outside, found by its entry point alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.away = folder, folder.with_name("away")
        folder.mkdir()

    def receiver(self) -> AlertReceiver:
        found = open_receiver(AlertSettings(receiver="outside_folder", options={"folder": str(self.folder)}))
        assert found is not None
        return found

    def taken(self) -> list[str]:
        return [json.loads(p.read_text())["title"] for p in sorted(self.folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)]

    def down(self) -> None:
        self.folder.rename(self.away)

    def up(self) -> None:
        self.away.rename(self.folder)


@pytest.mark.usefixtures("outside_package")
class TestOutside(AlertReceiverContract):
    @pytest.fixture
    def far_side(self, tmp_path: Path) -> FarSide:
        return Folder(tmp_path / "inbox")


def test_without_a_webhook_there_is_no_receiver() -> None:
    assert open_receiver(AlertSettings()) is None
    assert isinstance(open_receiver(AlertSettings(webhook=Secret("https://hooks.example/T0"))), Webhook)


def test_a_receiver_that_is_not_to_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("broken", "no.such.module:X", "g"), EntryPoint("none", "json:dumps", "g")]
    monkeypatch.setattr(extensions, "entry_points", lambda group: points)
    with pytest.raises(ValidationError, match="'pager' is not a known alert receiver; known: broken, none, webhook"):
        AlertSettings(receiver="pager")
    for name, words in {"broken": "cannot be loaded: No module named 'no'", "none": "is not a subclass of AlertReceiver"}.items():
        with pytest.raises(ConfigError, match=words):
            open_receiver(AlertSettings(receiver=name))


def test_a_password_of_netrc_does_not_replace_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = WebhookServer()
    server.up()
    assert Webhook(AlertSettings(webhook=Secret(server.url), secret=Secret("Bearer abc"))).send(message(), NOW).ok
    assert server.headers[0]["Authorization"] == "Bearer abc"
    server.down()


def test_a_setting_that_is_no_more_is_one_line() -> None:
    with pytest.warns(FutureWarning, match="repeat_hours no longer has an effect"):
        assert AlertSettings.model_validate({"repeat_hours": 12, "level": "warn"}).level == "warn"
