"""``docker/compose.yaml``: its parts fit each other, and the real Alertmanager takes the receivers that the environment names.

What runs of it in containers is ``tests/scale``'s; images of others cannot be had there.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.lake.processes import free_ports
from tests.promtool import send_alerts, tool, with_its_files
from tests.webhook_server import WebhookServer

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if "build" in s}
SLACK = {"ALERT_SLACK_URL": "https://hooks.example.org/T0", "ALERT_SLACK_CHANNEL": "#o'clock"}
PAGERDUTY = {"ALERT_PAGERDUTY_KEY": "0123456789abcdef0123456789abcdef"}
EMAIL = {"ALERT_EMAIL_TO": "a@example.org, b@example.org", "ALERT_EMAIL_FROM": "t@example.org", "ALERT_SMTP_HOST": "smtp.example.org:587"}
PASSWORD = {"ALERT_SMTP_USER": "t", "ALERT_SMTP_PASSWORD": "it's: {secret}"}


def test_our_services_run_as_strictly_as_their_images_allow() -> None:
    assert set(OURS) == {"serve", "topics", "stream", "watch", "jobs", "mlflow"}
    for name, service in OURS.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["init"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and "user" not in service, name
    targets = {line.split()[-1] for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")}
    assert {s["build"]["target"] for s in OURS.values()} <= targets


def test_ports_are_this_machine_s_alone_and_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if name not in OURS:
            assert service["image"].rpartition(":")[2] not in ("", "latest") and ":" in service["image"], name
    published = [port.split(":")[1] for s in SERVICES.values() for port in s.get("ports", [])]
    assert len(set(published)) == len(published)


def test_every_name_in_it_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source.startswith("$") or source in COMPOSE["volumes"], volume
    config = yaml.safe_load((DOCKER / "prometheus" / "compose.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in config["scrape_configs"]}
    local = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    assert set(jobs) == {job["job_name"] for job in local["scrape_configs"]}  # the rules know jobs by these names
    for job, target in jobs.items():
        service, port = target.split(":")
        listens = {str(v) for k, v in SERVICES[service]["environment"].items() if k.endswith("METRICS_PORT")} or {"8500"}
        assert job == f"tandem-{service}" and listens == {port}


def script(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the start script with amtool, which checks what it made, in Alertmanager's place."""
    checker = folder / "checker"
    checker.write_text(f'#!/bin/sh\ncat "${{1#--config.file=}}"\nexec "{tool("amtool")}" check-config "${{1#--config.file=}}"\n')
    checker.chmod(0o700)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ALERT_")}
    given = {**clean, "TMPDIR": str(folder), "ALERTMANAGER": str(checker), **environment}
    return subprocess.run([DOCKER / "prometheus" / "alertmanager.sh"], env=given, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("parts", list(product((False, True), repeat=3)))
def test_alertmanager_takes_what_any_environment_makes(parts: tuple[bool, bool, bool], tmp_path: Path) -> None:
    environment = {k: v for on, part in zip(parts, (SLACK, PAGERDUTY, {**EMAIL, **PASSWORD})) if on for k, v in part.items()}
    done = script(tmp_path, environment)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
    config = yaml.safe_load(done.stdout.partition("Checking")[0])
    by_name = {r.pop("name"): {k.removesuffix("_configs") for k in r} for r in config["receivers"]}
    named = {name for on, name in zip(parts, ("slack", "pagerduty", "email")) if on}
    assert by_name == {"pages": named, "tickets": named - {"pagerduty"}}
    for secret in (SLACK["ALERT_SLACK_URL"], *PAGERDUTY.values(), PASSWORD["ALERT_SMTP_PASSWORD"]):
        assert secret not in done.stdout
    held = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "checker"]
    assert all(p.stat().st_mode & 0o077 == 0 for p in held)


def test_a_secret_may_come_by_a_file_and_half_an_address_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(PAGERDUTY["ALERT_PAGERDUTY_KEY"] + "\n")
    done = script(tmp_path, {"ALERT_PAGERDUTY_KEY_FILE": str(tmp_path / "key")})
    assert "routing_key_file" in done.stdout and next(tmp_path.glob("*/pagerduty")).read_text() == PAGERDUTY["ALERT_PAGERDUTY_KEY"]
    done = script(tmp_path, {"ALERT_EMAIL_TO": "a@example.org"})
    assert done.returncode != 0 and "ALERT_EMAIL_TO needs ALERT_EMAIL_FROM" in done.stderr


class Mail(socketserver.StreamRequestHandler):
    """Takes one mail by SMTP."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word = line.strip().upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(text.decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 yes\r\n")
            if word == b"QUIT":
                break


def test_a_page_reaches_slack_pagerduty_and_a_mailbox(tmp_path: Path) -> None:
    alertmanager = with_its_files("prometheus-alertmanager")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in alertmanager) + ' "$@"\n')
    program.chmod(0o700)
    shutil.copy(DOCKER / "prometheus" / "alertmanager.sh", tmp_path)
    routes = (DOCKER / "prometheus" / "alertmanager.yml").read_text()
    (tmp_path / "alertmanager.yml").write_text(routes.replace("group_wait: 15s", "group_wait: 1s"))
    slack, pagerduty = WebhookServer(), WebhookServer()
    slack.up()
    pagerduty.up()
    mails = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    mails.mails = []  # type: ignore[attr-defined]
    threading.Thread(target=mails.serve_forever, args=(0.02,), daemon=True).start()
    (port,) = free_ports(1)
    receivers = {
        "ALERT_SLACK_URL": slack.url,
        **PAGERDUTY,
        "ALERT_PAGERDUTY_URL": pagerduty.url,
        **EMAIL,
        "ALERT_SMTP_HOST": f"127.0.0.1:{mails.server_address[1]}",
        "ALERT_SMTP_TLS": "false",
    }
    words = [str(tmp_path / "alertmanager.sh"), f"--storage.path={tmp_path}", f"--web.listen-address=127.0.0.1:{port}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "ALERTMANAGER": str(program), **receivers}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*words, "--cluster.listen-address="], env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        page = {"labels": {"alertname": "TandemServerDown", "severity": "page"}}
        send_alerts(port, [page], process, tmp_path / "log", until)
        while not (slack.taken and pagerduty.taken and mails.mails):  # type: ignore[attr-defined]
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            threading.Event().wait(0.1)
        assert "TandemServerDown" in json.dumps(slack.taken[0])
        assert pagerduty.taken[0]["routing_key"] == PAGERDUTY["ALERT_PAGERDUTY_KEY"] and pagerduty.taken[0]["event_action"] == "trigger"
        assert "TandemServerDown" in mails.mails[0] and "To: a@example.org, b@example.org" in mails.mails[0]  # type: ignore[attr-defined]
    finally:
        process.terminate()
        process.wait(30)
        for server in (slack, pagerduty):
            server.down()
        mails.shutdown()
        mails.server_close()
