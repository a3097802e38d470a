"""Alerts over a real HTTP server that is down, slow, busy or refuses; the clock is ours."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.alerting import Alert, AlertStore, Webhook, deliver, from_report, from_runs
from pipelines.alerting.alert import Severity
from pipelines.alerting.delivery import backoff
from pipelines.alerting.webhook import slack
from pipelines.lake.run_records import RunHead
from pipelines.monitoring.monitor_report import MonitorReport
from pipelines.project.config import AlertSettings
from pipelines.project.secrets import Secret
from pipelines.sources.formats.schema_registry import Registry, RegistryAway
from tests.webhook_server import WebhookServer
from transforms.errors import ConfigError

START = datetime(2026, 3, 1, tzinfo=UTC)
DRIFT = Alert(
    "monitor/flights/drift",
    "fail",
    "flights: drift of temp failed",
    "temp 0.4 (threshold 0.1)",
    "temp",
    {"model": "flights"},
    {"temp": 0.4},
)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **length: float) -> datetime:
        self.now += timedelta(**length)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    server = WebhookServer()
    yield server
    server.go_on.set()
    server.down()


def webhook(server: WebhookServer, **settings: Any) -> Webhook:
    return Webhook(AlertSettings(webhook=Secret(server.url), **{"timeout_seconds": 5, **settings}))


def states(bodies: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(b["state"], b["change"]) for b in bodies]


def test_each_state_is_sent_once(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    store, hook = AlertStore(tmp_path, "shop"), webhook(server, secret="Bearer abc")
    for _ in range(30):  # half an hour of the same finding
        store.sync("monitor/flights", [DRIFT], clock.forward(minutes=1))
        deliver(store, hook, clock)
    assert states(server.taken) == [("firing", "new")]
    more = Alert(DRIFT.key, "fail", "flights: drift of 2 features failed", "", "temp, wind")
    store.sync("monitor/flights", [more], clock.forward(hours=1))
    store.sync("monitor/other", [], clock.forward(hours=1))  # of another scope: nothing to this one
    deliver(store, hook, clock)
    for _ in range(30):
        store.sync("monitor/flights", [more], clock.forward(hours=1))
        deliver(store, hook, clock)
    store.sync("monitor/flights", [], clock.forward(hours=1))
    store.sync("monitor/flights", [], clock.forward(hours=1))
    deliver(store, hook, clock)
    store.sync("monitor/flights", [DRIFT], clock.forward(hours=1))
    deliver(store, hook, clock)
    assert states(server.taken) == [
        ("firing", "new"),
        ("firing", "changed"),
        ("resolved", "over"),
        ("firing", "new"),
    ]
    assert len({b["id"] for b in server.taken}) == 4
    first, last = server.taken[0], server.taken[-1]
    assert first["since"] == server.taken[1]["since"] == server.taken[2]["since"] < last["since"]
    assert first["project"] == "shop" and first["labels"] == {"model": "flights"} and first["values"] == {"temp": 0.4}
    sent = server.headers[0]
    assert sent["Authorization"] == "Bearer abc" and sent["Idempotency-Key"] == first["id"] and sent[":path"] == "/hooks/T0?x=1"
    assert store.counts()["delivered"] == 4 and not store.waiting()


def test_a_webhook_that_is_down_gets_its_alerts_when_it_is_up_again(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    hook = webhook(server)
    said: list[str] = []
    for _ in range(20):  # each with a store of its own, as after a restart of the watch
        AlertStore(tmp_path).sync("m", [DRIFT], clock.now)
        round_ = deliver(AlertStore(tmp_path), hook, clock, say=said.append)
        assert round_.waiting == 1 and round_.next is not None and round_.next > clock.now
        clock.now = round_.next
    assert backoff(1) == timedelta(seconds=5) and backoff(4) == timedelta(seconds=40) and backoff(99) == timedelta(hours=1)
    AlertStore(tmp_path).sync("m", [], clock.now)
    AlertStore(tmp_path).add(Alert("retrain/1", "info", "retrained"), clock.now)
    assert len(AlertStore(tmp_path).waiting()) == 3
    server.up()
    done = deliver(AlertStore(tmp_path), hook, clock, say=said.append)
    assert (done.sent, done.waiting, done.next) == (3, 0, None)
    assert states(server.taken) == [("firing", "new"), ("resolved", "over"), ("event", "new")]
    assert "refused" in said[0].lower() and str(server.port) not in "".join(said) and said[-1] == "the webhook accepts alerts again"
    assert deliver(AlertStore(tmp_path), hook, clock).sent == 0


def test_no_attempt_before_its_time(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    server.answers = [(500, {}), (503, {})]
    store, hook = AlertStore(tmp_path), webhook(server)
    store.sync("m", [DRIFT], clock.now)
    for seconds, attempts in ((0, 1), (4, 1), (1, 2), (9, 2), (1, 3), (60, 3)):
        clock.forward(seconds=seconds)
        deliver(store, hook, clock)
        assert len(server.got) == attempts
    assert len({b["id"] for b in server.got}) == 1 == len(server.taken)  # the same id each time
    assert store.counts()["failures"] == 2


@pytest.mark.parametrize("value", ["120", "Sun, 01 Mar 2026 00:02:00 GMT"])
def test_too_many_requests_wait_as_they_are_asked_to(tmp_path: Path, server: WebhookServer, clock: Clock, value: str) -> None:
    server.up()
    server.answers = [(429, {"Retry-After": value})]
    store, hook = AlertStore(tmp_path), webhook(server)
    store.sync("m", [DRIFT, Alert("another", "fail", "another")], clock.now)
    assert deliver(store, hook, clock).next == START + timedelta(seconds=120)
    clock.forward(seconds=119)
    deliver(store, hook, clock)
    assert len(server.got) == 1
    clock.forward(seconds=1)
    assert deliver(store, hook, clock).sent == 2


@pytest.mark.parametrize("value", ["soon", "-5", "1e999", ""])
def test_a_strange_retry_after_is_no_harm(tmp_path: Path, server: WebhookServer, clock: Clock, value: str) -> None:
    server.up()
    server.answers = [(503, {"Retry-After": value})]
    store = AlertStore(tmp_path)
    store.sync("m", [DRIFT], clock.now)
    after = deliver(store, webhook(server), clock).next
    assert after is not None and START + timedelta(seconds=5) <= after <= START + timedelta(hours=6)


@pytest.mark.parametrize("status", [None, 500, 429])
def test_a_clock_that_was_ahead_holds_no_alert_up(tmp_path: Path, server: WebhookServer, clock: Clock, status: int | None) -> None:
    """A clock is set back by a year: what it queued, and the waits that it began, are over."""
    store, hook = AlertStore(tmp_path), webhook(server)
    server.up()
    server.answers = [(status, {})] if status else []
    clock.forward(days=365)
    store.sync("m", [DRIFT], clock.now)
    if status:
        assert deliver(store, hook, clock).failed == 1
    clock.forward(days=-365)
    assert deliver(store, hook, clock).sent == 1 and not store.waiting()


def test_a_slow_webhook_is_given_up_in_time_and_tried_again(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    server.go_on.clear()
    store, hook = AlertStore(tmp_path), webhook(server, timeout_seconds=0.3)
    said: list[str] = []
    store.sync("m", [DRIFT], clock.now)
    begun = time.monotonic()
    deliver(store, hook, clock, say=said.append)
    assert time.monotonic() - begun < 5 and "did not answer within 0.3 s" in said[0]
    server.go_on.set()
    clock.forward(seconds=5)
    assert deliver(store, hook, clock).sent == 1
    assert len({b["id"] for b in server.got}) == 1  # so whoever got it twice can tell


def test_a_message_that_is_refused_does_not_hold_up_the_others(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    server.answers = [(400, {})]
    store, hook = AlertStore(tmp_path), webhook(server)
    store.sync("m", [DRIFT, Alert("another", "fail", "another")], clock.now)
    done = deliver(store, hook, clock)
    assert (done.sent, done.failed, done.waiting) == (1, 1, 1) and server.taken[0]["key"] == "another"
    store.sync("m", [Alert("another", "fail", "another")], clock.forward(seconds=1))  # the refused one is over
    assert deliver(store, hook, clock).sent == 0  # its end is not told before its beginning
    clock.forward(seconds=10)
    deliver(store, hook, clock)
    assert states(server.taken[1:]) == [("firing", "new"), ("resolved", "over")]


def test_the_system_s_certificates_are_trusted_alone(server: WebhookServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "server.pem"
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", *make, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")], check=True, capture_output=True)
    pem.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    server.up(pem)
    url = f"https://localhost:{server.port}/hooks"
    hook, registry = Webhook(AlertSettings(webhook=Secret(url))), Registry(url)
    message = {"id": "1", "state": "firing", "title": "t", "text": ""}
    assert not hook.send(message, START).ok and "self-signed certificate" in hook.send(message, START).error
    with pytest.raises(ConfigError, match=r"is not trusted: self-signed certificate; set kafka\.ssl_cafile"):
        registry.schema(1)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    assert hook.send(message, START).ok
    for trusting in (Registry(url), Registry(url, cafile=tmp_path / "cert")):
        with pytest.raises(RegistryAway, match="status 501"):  # it came through
            trusting.schema(1)


def test_a_redirect_is_no_delivery(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    server.answers = [(302, {"Location": "/elsewhere"})]
    store = AlertStore(tmp_path)
    store.sync("m", [DRIFT], clock.now)
    assert deliver(store, webhook(server), clock).failed == 1 and len(server.got) == 1


def test_what_cannot_be_delivered_for_days_is_given_up_and_said(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    store, hook = AlertStore(tmp_path), webhook(server)
    said: list[str] = []
    store.sync("m", [DRIFT], clock.now)
    deliver(store, hook, clock)
    clock.forward(hours=73)
    done = deliver(store, hook, clock, keep=timedelta(hours=72), say=said.append)
    assert (done.lost, done.waiting) == (1, 0) and "given up after 72 h" in said[0]
    assert store.counts()["lost"] == 1


def test_while_it_is_down_a_newer_state_replaces_an_older_one(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    store = AlertStore(tmp_path)
    for n in range(50):
        store.sync("m", [Alert("k", "fail", f"{n} features", same=str(n))], clock.forward(minutes=1))
    store.sync("m", [], clock.forward(minutes=1))
    store.sync("m", [Alert("k", "warn", "again")], clock.forward(minutes=1))
    server.up()
    deliver(store, webhook(server), clock)
    assert [(b["state"], b["title"]) for b in server.taken] == [
        ("firing", "49 features"), ("resolved", "over: 49 features"), ("firing", "again"),
    ]  # fmt: skip


def test_two_processes_deliver_each_message_once(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    server.go_on.clear()
    AlertStore(tmp_path).sync("m", [DRIFT], clock.now)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(deliver, AlertStore(tmp_path), webhook(server), clock)
        until = time.monotonic() + 10
        while not server.got:
            assert time.monotonic() < until
            threading.Event().wait(0.01)
        second = deliver(AlertStore(tmp_path), webhook(server), clock)
        assert second.sent == 0 and second.next is not None
        server.go_on.set()
        assert first.result(10).sent == 1
    assert len(server.got) == 1


def test_two_processes_find_the_same_thing_at_once(tmp_path: Path, clock: Clock) -> None:
    with ThreadPoolExecutor(8) as pool:
        queued = list(pool.map(lambda _: len(AlertStore(tmp_path).sync("m", [DRIFT], clock.now)), range(16)))
    assert sum(queued) == 1 == len(AlertStore(tmp_path).waiting())


VICTIM = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from pipelines.alerting import Alert, AlertStore, Webhook, deliver
from pipelines.project.config import AlertSettings
store = AlertStore(Path(sys.argv[1]))
store.sync("m", [Alert("k", "fail", "title")], datetime.now(UTC))
deliver(store, Webhook(AlertSettings(webhook=sys.argv[2], timeout_seconds=60)), lambda: datetime.now(UTC))
"""


def test_killed_between_the_answer_and_the_note_of_it(tmp_path: Path, server: WebhookServer) -> None:
    """The receiver gets it twice, with one id."""
    server.up()
    server.go_on.clear()
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path), server.url], env={**os.environ, "PYTHONPATH": os.getcwd()})
    until = time.monotonic() + 60
    while not server.got:
        assert time.monotonic() < until and victim.poll() is None
        threading.Event().wait(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    server.go_on.set()
    done = deliver(AlertStore(tmp_path), webhook(server), lambda: datetime.now(UTC))
    assert done.sent == 1 and len({b["id"] for b in server.got}) == 1


def test_slack_s_format(tmp_path: Path, server: WebhookServer, clock: Clock) -> None:
    server.up()
    store = AlertStore(tmp_path, "shop")
    store.sync("m", [Alert("k", "fail", "a < b & c", "x\n" * 3000)], clock.now)
    deliver(store, webhook(server, format="slack"), clock)
    (body,) = server.taken
    assert set(body) == {"text", "blocks"} and "a &lt; b &amp; c" in body["text"]
    kinds = [b["type"] for b in body["blocks"]]
    assert kinds == ["section", "section", "context"]
    assert all(len(b["text"]["text"]) <= 3000 for b in body["blocks"] if "text" in b)
    assert "shop | since 2026-03-01 00:00 UTC | new" in body["blocks"][2]["elements"][0]["text"]
    marks = {
        state: slack({**json.loads(json.dumps(stored_body(store))), "state": state})["text"][:12]
        for state in ("firing", "resolved", "event")
    }
    assert len(set(marks.values())) == 3


def stored_body(store: AlertStore) -> dict[str, Any]:
    with sqlite3.connect(store.path) as db:
        found: dict[str, Any] = json.loads(db.execute("SELECT body FROM messages").fetchone()[0])
    return found


def test_an_address_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match=r"alerts\.webhook is not an http") as error:
        Webhook(AlertSettings(webhook=Secret("hooks.example/secret")))
    assert "secret" not in str(error.value)
    assert "secret" not in repr(AlertSettings(webhook=Secret("https://hooks.example/secret"), secret=Secret("secret")))
    assert "T0" not in repr(Webhook(AlertSettings(webhook=Secret("https://hooks.example/T0"))))


REPORT: dict[str, Any] = {
    "model": "flights",
    "version": 3,
    "checks": [
        {"name": "drift", "feature": "temp", "value": 0.4, "threshold": 0.1, "status": "fail", "detail": ""},
        {"name": "drift", "feature": "wind", "value": 0.12, "threshold": 0.1, "status": "warn", "detail": "by chance up to 0.1"},
        {"name": "nulls", "feature": "temp", "value": 0.0, "threshold": 0.1, "status": "ok", "detail": ""},
        {"name": "auc", "feature": "", "value": 0.08, "threshold": 0.05, "status": "fail", "detail": "AUC 0.65"},
        {"name": "skew", "feature": "", "value": None, "threshold": None, "status": "skipped", "detail": "few"},
    ],
}


def alerts_of(said: dict[str, Any], level: Severity = "fail") -> list[Alert]:
    return from_report(MonitorReport.of(said), level)


def test_a_report_becomes_an_alert_per_kind_of_check() -> None:
    drift, auc = alerts_of(REPORT)[1], alerts_of(REPORT)[0]
    assert (auc.key, auc.title, auc.text) == ("monitor/flights/auc", "flights: auc failed", "auc 0.08 (threshold 0.05): AUC 0.65")
    assert (drift.title, drift.text, drift.values) == ("flights: drift of temp failed", "temp 0.4 (threshold 0.1)", {"temp": 0.4})
    assert len(alerts_of(REPORT, "warn")) == 2 and "wind 0.12" in alerts_of(REPORT, "warn")[1].text
    moved = {**REPORT, "checks": [{**c, "value": 0.5} if c["feature"] == "temp" else c for c in REPORT["checks"]]}
    assert [a.fingerprint for a in alerts_of(moved)] == [a.fingerprint for a in alerts_of(REPORT)]
    worse = {**REPORT, "checks": [{**c, "status": "fail"} for c in REPORT["checks"] if c["feature"]]}
    assert alerts_of(worse)[0].fingerprint != drift.fingerprint
    many = {
        "model": "m",
        "checks": [{"name": "drift", "feature": f"f{n}", "value": n, "threshold": 1, "status": "fail"} for n in range(60)],
    }
    (one,) = alerts_of(many)
    assert one.title == "m: drift of 60 features failed" and one.text.endswith("and 52 more") and one.text.startswith("f59 59")


def run(kind: str, status: str, day: int, error: str = "") -> RunHead:
    return RunHead(id=f"{kind}-{day}", kind=kind, status=status, finished=f"2026-03-{day:02d}T00:00:00+00:00", error=error)


def test_the_latest_run_of_a_kind_decides_whether_the_job_is_well() -> None:
    now = datetime(2026, 3, 9, tzinfo=UTC)
    failed = [
        run("batch", "complete", 6),
        run("batch", "failed", 7, "no space on 7 of 9"),
        run("train", "failed", 6),
        run("train", "complete", 7),
    ]
    (alert,) = from_runs(failed, now)
    assert (alert.key, alert.title, alert.text) == ("job/batch", "tandem batch failed", "no space on 7 of 9\nrun batch-7")
    again = from_runs([*failed, run("batch", "failed", 8, "no space on 3 of 5")], now)
    assert again[0].fingerprint == alert.fingerprint  # the same trouble the next day
    assert from_runs([*failed, run("batch", "running", 8)], now)  # not well yet
    assert not from_runs([*failed, run("batch", "complete", 8)], now)
    assert not from_runs([run("stream", "killed", 7), run("stream", "running", 8)], now)
    assert not from_runs([run("batch", "failed", 1)], now)  # long given up
    assert not from_runs([run("batch", "killed", 8, "interrupted (Ctrl-C)")], now)
    assert not from_runs([dataclasses.replace(run("retrain", "killed", 8), asked_to_stop=True)], now)
    assert from_runs([run("retrain", "killed", 8)], now)
