"""What Prometheus and Grafana are given: checked by the real tools, against what our processes really expose."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.alerting import Alert, AlertStore
from pipelines.lake.processes import free_ports
from pipelines.streaming.status import StreamStatus
from pipelines.streaming.stream_metrics import StreamMetrics, serve
from pipelines.watch.job_metrics import MOST_CHECKS, JobMetrics, page
from serving.metrics import Metrics
from tests.integration.fake_tandem import MODEL
from tests.integration.watch_world import DRIFT, World
from tests.promtool import send_alerts, tool, with_its_files
from tests.webhook_server import WebhookServer

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "docker" / "prometheus", ROOT / "docker" / "grafana"
TEMPLATES = ROOT / "pipelines" / "cli" / "templates"
ALERTS, ALERTS_TEST = TEMPLATES / "alerts.yml", ROOT / "tests" / "integration" / "alerts_test.yml"
RULES: list[dict[str, Any]] = [r for g in yaml.safe_load(ALERTS.read_text())["groups"] for r in g["rules"]]
DASHBOARD: dict[str, Any] = json.loads((TEMPLATES / "dashboard.json").read_text())
PANELS = [p for p in DASHBOARD["panels"] if p["type"] != "row"]


def promtool(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run([tool("promtool"), *words], input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pages(data: Path) -> dict[str, str]:
    """What each of our processes shows at /metrics, by the job's name in prometheus.yml."""
    stream = CollectorRegistry(auto_describe=False)
    stream.register(StreamMetrics(StreamStatus))
    return {
        "tandem-serve": Metrics().page().decode(),
        "tandem-stream": generate_latest(stream).decode(),
        "tandem-watch": page(JobMetrics(data)).decode(),
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return World(tmp_path).data


def exposed(data: Path) -> set[str]:
    """Every series name that our code can show, whether or not it has a value yet."""
    names = {"up", "ALERTS"}
    for text in pages(data).values():
        for kind, name in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
            names |= {kind} | ({f"{kind}_bucket", f"{kind}_count", f"{kind}_sum"} if name == "histogram" else set())
    return names


def queries() -> list[tuple[str, str]]:
    """(title, query) of every panel, and of the annotation; Grafana's variables filled in."""
    found = [(p["title"], t["expr"]) for p in PANELS for t in p["targets"]]
    found += [(a["name"], a["expr"]) for a in DASHBOARD["annotations"]["list"]]
    return [(title, q.replace("$__rate_interval", "1m").replace("$model", ".*")) for title, q in found]


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert "valid prometheus config" in promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_alertmanager_takes_the_configuration_and_routes_by_severity() -> None:
    path = str(PROMETHEUS / "alertmanager.yml")

    def amtool(*words: str) -> str:
        done = subprocess.run([tool("amtool"), *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "SUCCESS" in amtool("check-config", path)
    for severity, receiver in (("page", "pages"), ("ticket", "tickets")):
        assert amtool("config", "routes", "test", f"--config.file={path}", f"severity={severity}").split() == [receiver]
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    names = {r["alert"] for r in RULES}
    for matcher in re.findall(r'alertname=~?"([^"]+)"', text):
        assert any(re.fullmatch(matcher, name) for name in names), matcher  # a rule that was renamed inhibits nothing
    compose = yaml.safe_load((PROMETHEUS.parent / "monitoring.yaml").read_text())["services"]["alertmanager"]["command"]
    targets = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert f"--web.listen-address={targets[0]}" in compose


def test_a_real_alertmanager_sends_one_message_for_many_features(tmp_path: Path) -> None:
    server = WebhookServer()
    server.up()
    config = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    config["route"]["group_wait"] = "1s"
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{server.url}&to={receiver['name']}"}]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    words = [f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path}"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*with_its_files("prometheus-alertmanager"), *words], stdout=log, stderr=log)
    try:
        labels = {"alertname": "TandemDrift", "severity": "ticket", "model": "flights"}
        until = time.monotonic() + 60
        alerts = [{"labels": {**labels, "feature": f"f{n}"}} for n in range(20)]
        send_alerts(port, alerts, process, tmp_path / "log", until)
        while not server.taken:
            assert time.monotonic() < until
            threading.Event().wait(0.1)
        (message,) = server.taken
        assert len(message["alerts"]) == 20 and message["receiver"] == "tickets" and message["groupLabels"]["model"] == "flights"
    finally:
        process.terminate()
        process.wait(30)
        server.down()


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(ALERTS_TEST))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [c for t in yaml.safe_load(ALERTS_TEST.read_text())["tests"] for c in t["alert_rule_test"]]
    names = [r["alert"] for r in RULES]
    assert len(set(names)) == len(names)
    for name in names:
        assert {bool(c["exp_alerts"]) for c in cases if c["alertname"] == name} == {True, False}, name
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"], rule["alert"]


def test_rules_use_names_that_our_code_exposes(data: Path) -> None:
    names = exposed(data)
    for rule in RULES:
        used = set(re.findall(r"\b(?:tandem_\w+|up)\b", rule["expr"]))
        assert used and used <= names, (rule["alert"], used - names)


def test_names_and_help_are_as_prometheus_wants_them(data: Path) -> None:
    for text in pages(data).values():
        promtool("check", "metrics", stdin=text)


def test_the_configuration_scrapes_each_process() -> None:
    jobs = {s["job_name"] for s in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs == {"tandem-serve", "tandem-stream", "tandem-watch"}
    assert {j for r in RULES for j in re.findall(r'job="([^"]+)"', r["expr"])} <= jobs


def test_the_dashboard_s_queries_parse_and_use_names_that_exist(data: Path, tmp_path: Path) -> None:
    names = exposed(data)
    rules = [{"record": f"q:{n}", "expr": q} for n, (_, q) in enumerate(queries())]
    (tmp_path / "q.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "q.yml"))
    for title, query in queries():
        used = set(re.findall(r"\b(?:tandem_\w+|ALERTS)\b", query))
        assert used and used <= names, (title, used - names)
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"]]
    assert {re.findall(r"tandem_\w+", v)[0] for v in variables} <= names


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        g = panel["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    ("compose", "datasource"),
    [("monitoring.yaml", "grafana/provisioning/datasources/tandem.yml"), ("compose.yaml", "grafana/compose.yml")],
)
def test_grafana_finds_what_it_is_provisioned_with(compose: str, datasource: str) -> None:
    docker = ROOT / "docker"
    source = yaml.safe_load((docker / datasource).read_text())["datasources"][0]
    used = {p["datasource"]["uid"] for p in PANELS} | {t["datasource"]["uid"] for p in PANELS for t in p["targets"]}
    assert used == {source["uid"]}
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "tandem.yml").read_text())["providers"]
    services = yaml.safe_load((docker / compose).read_text())["services"]
    mounts = dict(m.split(":")[:2] for m in services["grafana"]["volumes"] if m.startswith("."))
    (dashboard,) = [there for here, there in mounts.items() if (docker / here).resolve() == TEMPLATES / "dashboard.json"]
    assert dashboard == f"{provider['options']['path']}/tandem.json"
    config = next(w for w in services["prometheus"]["command"] if w.startswith("--config.file=")).partition("=")[2]
    rules = dict(m.split(":")[:2] for m in services["prometheus"]["volumes"] if m.startswith("."))
    (named,) = yaml.safe_load((PROMETHEUS / Path(config).name).read_text())["rule_files"]
    there = os.path.normpath(Path(config).parent / named)
    assert [(docker / here).resolve() for here, at in rules.items() if at == there] == [ALERTS]
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{provider['options']['path']}/tandem.json"
    inside = [there for here, there in mounts.items() if (docker / datasource).is_relative_to(docker / here)]
    assert any(there.startswith("/etc/grafana/provisioning") for there in inside), "the data source is where Grafana looks for one"
    for service in services.values():
        for mount in service.get("volumes", []):
            if isinstance(mount, str) and mount.startswith("."):
                assert (docker / mount.split(":")[0]).exists()


@pytest.fixture
def prometheus(data: Path, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with our configuration, but for the ports and a quicker pace; its address."""
    folder = data / "monitor" / f"{MODEL}-1"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(DRIFT))
    stream = StreamMetrics(lambda: StreamStatus(lag={("departures", 0): 7}, paused=("departures/0",)))
    ends, ports = [], {}
    for job, collector in (("tandem-watch", JobMetrics(data)), ("tandem-stream", stream)):
        port, end = serve(collector, 0)
        ports[job] = port
        ends.append(end)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["scrape_configs"] = [s for s in config["scrape_configs"] if s["job_name"] in ports]
    for scrape in config["scrape_configs"]:
        scrape.pop("scrape_interval", None)
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{ports[scrape['job_name']]}"]}]
    config["rule_files"] = [str(ALERTS)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    words = [
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([tool("prometheus"), *words], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        for end in ends:
            end()


def ask(address: str, path: str, seconds: float = 60, **words: str) -> Any:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(words)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(f"{words}: {error.read().decode()}") from None
        except OSError:
            pass
        assert time.monotonic() < until
        threading.Event().wait(0.05)


def test_a_real_prometheus_scrapes_alerts_and_answers_the_dashboard(prometheus: str) -> None:
    until = time.monotonic() + 60
    while True:
        firing = {a["labels"]["alertname"] for a in ask(prometheus, "alerts")["alerts"]}
        if {"TandemSkew", "TandemMonitorFails", "TandemStreamPaused"} <= firing:
            break
        assert time.monotonic() < until, firing
        threading.Event().wait(0.1)
    assert not {a for a in firing if a.endswith("Down")}
    rules = [r for g in ask(prometheus, "rules")["groups"] for r in g["rules"]]
    until = time.monotonic() + 30
    while any(r["health"] == "unknown" for r in rules) and time.monotonic() < until:
        threading.Event().wait(0.1)
        rules = [r for g in ask(prometheus, "rules")["groups"] for r in g["rules"]]
    assert {r["health"] for r in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]
    for _, query in queries():
        ask(prometheus, "query", query=query)
    (row,) = ask(prometheus, "query", query='tandem_alias_version{alias="champion"}')["result"]
    assert row["metric"]["model"] == MODEL and row["value"][1] == "1"


def test_metrics_of_jobs_stay_within_bounds(data: Path) -> None:
    folder = data / "monitor" / f"{MODEL}-1"
    folder.mkdir(parents=True)
    checks = [{"name": "skew", "feature": f"f{n}", "value": 0.1, "threshold": 0.2, "status": "ok"} for n in range(MOST_CHECKS + 5)]
    checks[0] |= {"feature": 'a "quoted"\nname\\', "value": None, "threshold": float("inf")}
    (folder / "report.json").write_text(json.dumps({"model": MODEL, "verdict": "ok", "checks": checks}))
    found = {f.name: f for f in text_string_to_metric_families(page(JobMetrics(data)).decode())}
    assert len(found["tandem_monitor_check_status"].samples) == MOST_CHECKS
    assert found["tandem_monitor_check_status"].samples[0].labels["feature"] == 'a "quoted"\nname\\'
    assert len(found["tandem_monitor_check_value"].samples) == MOST_CHECKS - 1
    assert found["tandem_monitor_checks_left_out"].samples[0].value == 5


def test_metrics_of_an_empty_or_damaged_data_folder(tmp_path: Path) -> None:
    names = {f.name for f in text_string_to_metric_families(page(JobMetrics(tmp_path)).decode())}
    assert {"tandem_runs", "tandem_monitor_verdict", "tandem_alerts_waiting"} <= names
    assert not list(tmp_path.iterdir())  # looking makes nothing
    for path in (
        "runs/x/manifest.json",
        "monitor/x/report.json",
        "verify/x/report.json",
        "models/m/ALIASES.json",
        "models/m/1/tandem.json",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text('{"torn": ')
    assert {f.name for f in text_string_to_metric_families(page(JobMetrics(tmp_path)).decode())} == names


def test_alerts_are_counted(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    store, now = AlertStore(tmp_path / "alerts"), datetime.now(UTC)
    store.sync("m", [Alert("a", "fail", "a"), Alert("b", "warn", "b")], now)
    store.done(store.waiting()[0])
    text = page(JobMetrics(tmp_path)).decode().splitlines()
    assert 'tandem_alerts_firing{severity="warn"} 1.0' in text and "tandem_alerts_waiting 1.0" in text
    assert 'tandem_alert_messages_total{outcome="delivered"} 1.0' in text


def test_a_stream_that_runs_again_has_not_failed(tmp_path: Path) -> None:
    for number, (kind, status) in enumerate([("stream", "killed"), ("stream", "running"), ("batch", "killed"), ("batch", "running")]):
        folder = tmp_path / "runs" / f"{kind}-{number}"
        folder.mkdir(parents=True)
        manifest = {"id": folder.name, "kind": kind, "status": status, "created": f"2026-03-0{number + 1}T00:00:00+00:00"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    text = page(JobMetrics(tmp_path)).decode().splitlines()
    assert 'tandem_run_last_failed{kind="stream"} 0.0' in text and 'tandem_run_last_failed{kind="batch"} 1.0' in text
