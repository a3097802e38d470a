"""The Helm chart: linted and rendered by helm for several values, held against the API's schemas, and its server's pod run by podman."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import tandem
from tests.scale.containers import ROOT
from tests.scale.tools import LINTERS, PROMETHEUS_OPERATOR, go_source, go_tool, python_tools

CHART = ROOT / "docker" / "helm" / "tandem"
DIGEST = "sha256:" + "0" * 64
VALUES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with secrets, TLS, a digest and rules": {
        "images": {"serve": {"repository": "registry.example.org/shop", "digest": DIGEST}},
        "imagePullSecrets": [{"name": "registry"}],
        "repo": {"existingClaim": "shop-repo"},
        "env": {"TANDEM_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092", "TANDEM_STREAM__TICK_MS": 50},
        "secrets": {"settings": "shop-settings", "apiKey": {"secret": "shop-key"}, "tls": "shop-tls"},
        "podLabels": {"azure.workload.identity/use": "true"},
        "serve": {
            "args": ["--workers=2"],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "ml", "operator": "Exists"}],
            "priorityClassName": "serving",
            "autoscaling": {
                "metrics": [
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}}}
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
            },
        },
        "jobDefaults": {"tolerations": [{"key": "spot", "operator": "Exists"}], "nodeSelector": {"pool": "batch"}},
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "pricing"}}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"team": "metrics"}}}],
            "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 9092}]}],
        },
    },
    "the server alone": {
        "stream": {"enabled": False},
        "jobs": {"batch": {"enabled": False}, "materialize": {"enabled": False}, "watch": {"enabled": False}},
        "serve": {"replicas": 1, "autoscaling": {"enabled": False}, "disruption": {"enabled": False}},
        "data": {"existingClaim": "shop-data"},
        "serviceAccount": {"create": False, "name": "shop"},
        "networkPolicy": {"enabled": False},
    },
    "no server": {"serve": {"enabled": False}},
    "reached from outside and watched": {
        "serve": {
            "ingress": {"enabled": True, "className": "nginx", "hosts": ["shop.example.org", "*.shop.example.org"], "tls": "outside"}
        },
        "secrets": {"tls": "shop-tls"},
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "apiKey": {"secret": "prometheus-key"},
            "tlsConfig": {"ca": {"secret": {"name": "shop-tls", "key": "ca.crt"}}, "serverName": "shop.example.org"},
        },
    },
    "a command": {"command": ["pipeline", "--start", "2024-03-04"], "jobDefaults": {"nodeSelector": {"pool": "batch"}}},
    "on an object store": {
        "data": {"url": "s3://shop/tandem", "accessModes": ["ReadWriteOnce"], "copiesLimit": "50Gi"},
        "env": {"REDIS": "redis:6379,ssl=true"},
        "secrets": {"env": {"REDIS_PASSWORD": {"secret": "shop-redis", "key": "password"}}},
    },
}


CUSTOM = "monitoring.coreos.com/v1"


def helm(*words: str | Path, fails: bool = False) -> str:
    words = (*words, "--kube-version", "1.33")  # a helm built from its module believes in 1.20
    done = subprocess.run([go_tool("helm"), *map(str, words)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr if fails else done.stdout


def rendered(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    text = helm("template", "shop", CHART, "--values", folder / "values.yaml", "--namespace", "shop")
    (folder / "rendered.yaml").write_text("\n---\n".join(part for part in text.split("\n---\n") if CUSTOM not in part))
    return [part for part in yaml.safe_load_all(text) if part]


def validated(file: Path, version: str) -> str:
    """What the API of a version of Kubernetes would not take of a file, by its schemas; strict: no field that it does not know."""
    validate = python_tools("tools", LINTERS) / "kubernetes-validate"
    words = [str(validate), "--strict", "--no-warn", "-k", version, str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if " passed for resource " not in line]
    assert bool(said) == (done.returncode != 0), said
    return "\n".join(said)


def pods(parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of each Deployment, StatefulSet, Job and CronJob, by its container's name."""
    specs = [p["spec"]["template"]["spec"] for p in parts if p["kind"] in ("Deployment", "StatefulSet", "Job")]
    specs += [p["spec"]["jobTemplate"]["spec"]["template"]["spec"] for p in parts if p["kind"] == "CronJob"]
    return {spec["containers"][0]["name"]: spec for spec in specs}


@pytest.mark.parametrize("name", VALUES)
def test_it_is_linted_and_every_part_is_what_the_api_takes(name: str, tmp_path: Path) -> None:
    parts = rendered(VALUES[name], tmp_path)
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", tmp_path / "values.yaml")
    for version in ("1.25", "1.37"):
        assert validated(tmp_path / "rendered.yaml", version) == "", version
    kinds = [p["kind"] for p in parts]
    assert len({(p["kind"], p["metadata"]["name"]) for p in parts}) == len(parts)
    assert ("HorizontalPodAutoscaler" in kinds) == (name not in ("the server alone", "no server"))
    for pod in pods(parts).values():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        strict = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == strict and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in pod["volumes"]} and {"data", "tmp"} <= mounted


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of Kubernetes that takes no field that it does not know."""
    out = {**schema, **{name: strict(schema[name]) for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)}}
    if "properties" in schema:
        out |= {"properties": {name: strict(one) for name, one in schema["properties"].items()}, "additionalProperties": False}
    return out


def test_prometheus_operator_takes_what_it_is_told_and_finds_the_services_and_their_ports(tmp_path: Path) -> None:
    import jsonschema  # builds a parser, which each process that collects the tests would wait for

    parts = rendered(VALUES["reached from outside and watched"], tmp_path)
    monitors = {p["metadata"]["name"]: p for p in parts if p["kind"] == "ServiceMonitor"}
    assert set(monitors) == {"shop-tandem-serve", "shop-tandem-stream"}
    crd = go_source(PROMETHEUS_OPERATOR) / "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
    (version,) = yaml.safe_load(crd.read_text())["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    services = {p["metadata"]["name"]: p for p in parts if p["kind"] == "Service"}
    jobs = []
    for name, monitor in monitors.items():
        jsonschema.validate(monitor, schema)
        (endpoint,) = monitor["spec"]["endpoints"]
        selected = [s for s in services.values() if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        assert [s["metadata"]["name"] for s in selected] == [name]
        assert endpoint["port"] in [port["name"] for port in selected[0]["spec"]["ports"]]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        jobs += [one["replacement"] for one in endpoint["relabelings"] if one["targetLabel"] == "job"]
    rules = (ROOT / "pipelines/cli/templates/alerts.yml").read_text()
    assert len(jobs) == 2 and all(f'up{{job="{job}"}}' in rules for job in jobs), "the jobs that alerts are about"
    (endpoint,) = monitors["shop-tandem-serve"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https" and endpoint["authorization"] == {"credentials": {"name": "prometheus-key", "key": "api-key"}}
    (endpoint,) = monitors["shop-tandem-stream"]["spec"]["endpoints"]
    assert not {"scheme", "authorization", "tlsConfig"} & set(endpoint), "the stream asks nobody who they are"
    wrong = {**monitors["shop-tandem-serve"], "spec": {**monitors["shop-tandem-serve"]["spec"], "endpointz": []}}
    with pytest.raises(jsonschema.ValidationError, match="endpointz"):
        jsonschema.validate(wrong, schema)


def test_an_ingress_leads_to_the_server_s_service_and_not_to_its_metrics(tmp_path: Path) -> None:
    parts = rendered(VALUES["reached from outside and watched"], tmp_path)
    (ingress,) = [p["spec"] for p in parts if p["kind"] == "Ingress"]
    (service,) = [p for p in parts if p["kind"] == "Service" and p["metadata"]["name"] == "shop-tandem-serve"]
    hosts = VALUES["reached from outside and watched"]["serve"]["ingress"]["hosts"]
    assert ingress["tls"] == [{"secretName": "outside", "hosts": hosts}] and [rule["host"] for rule in ingress["rules"]] == hosts
    for rule in ingress["rules"]:
        paths = rule["http"]["paths"]
        assert {p["backend"]["service"]["port"]["name"] for p in paths} <= {p["name"] for p in service["spec"]["ports"]}
        assert {p["backend"]["service"]["name"] for p in paths} == {"shop-tandem-serve"}
        assert [p["path"] for p in paths] == ["/v1", "/v2", "/get-online-features"]
    assert not {"Ingress", "ServiceMonitor"} & {p["kind"] for p in rendered({}, tmp_path)}, "neither unless asked for"


def test_a_field_that_the_api_does_not_know_would_be_found(tmp_path: Path) -> None:
    rendered({}, tmp_path)
    text = (tmp_path / "rendered.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("replicas: 1", "replicaz: 1", 1))
    assert "'replicaz' was unexpected" in validated(tmp_path / "wrong.yaml", "1.37")


def test_what_is_selected_is_there(tmp_path: Path) -> None:
    parts = rendered(VALUES["with secrets, TLS, a digest and rules"], tmp_path)
    running = [p for p in parts if p["kind"] in ("Deployment", "StatefulSet")]
    deployments = {p["metadata"]["name"]: p["spec"]["template"]["metadata"]["labels"] for p in running}
    for part in parts:
        wanted = part.get("spec", {}).get("selector") or part.get("spec", {}).get("podSelector")
        if wanted is not None:
            labels = wanted.get("matchLabels", wanted)
            assert any(labels.items() <= found.items() for found in deployments.values()), part["metadata"]["name"]
    (scaler,) = [p for p in parts if p["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    found = pods(parts)
    assert set(found) == {"serve", "stream", "batch", "materialize", "watch"}
    assert found["serve"]["containers"][0]["image"] == f"registry.example.org/shop@{DIGEST}"
    assert found["serve"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"


def test_the_example_of_the_docs_is_taken_as_it_is(tmp_path: Path) -> None:
    (example,) = re.findall(r"A small `shop.yaml`:\n\n```text\n(.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    parts = rendered(yaml.safe_load(example.replace("sha256:...", DIGEST)), tmp_path)
    assert {"Ingress", "ServiceMonitor"} <= {p["kind"] for p in parts} and validated(tmp_path / "rendered.yaml", "1.37") == ""


def test_secrets_are_named_and_never_written(tmp_path: Path) -> None:
    parts = rendered(VALUES["with secrets, TLS, a digest and rules"], tmp_path)
    assert "Secret" not in {p["kind"] for p in parts}
    environment = {e["name"]: e for e in pods(parts)["serve"]["containers"][0]["env"]}
    assert environment["TANDEM_API_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "shop-key", "key": "api-key"}}
    (tmp_path / "wrong.yaml").write_text(json.dumps({"env": {"TANDEM_KAFKA__SASL_PASSWORD": "hunter2"}}))
    assert "SASL_PASSWORD" in helm("template", "shop", CHART, "--values", tmp_path / "wrong.yaml", fails=True)


def test_with_data_on_an_object_store_only_the_stream_keeps_its_folder(tmp_path: Path) -> None:
    found = pods(rendered(VALUES["on an object store"], tmp_path))
    for name, pod in found.items():
        (data,) = [v for v in pod["volumes"] if v["name"] == "data"]
        assert ("persistentVolumeClaim" in data) == (name == "stream"), name
        environment = {e["name"]: e for e in pod["containers"][0]["env"]}
        assert environment["TANDEM_DATA"]["value"] == "s3://shop/tandem" and environment["TANDEM_CACHE"]["value"] == "/repo/data"
        assert environment["REDIS_PASSWORD"]["valueFrom"] == {"secretKeyRef": {"name": "shop-redis", "key": "password"}}
    alone = {**VALUES["on an object store"], "stream": {"enabled": False}}
    assert "PersistentVolumeClaim" not in {p["kind"] for p in rendered(alone, tmp_path)}


WRONG = [
    "serve.replicas=0",
    "serve.autoscaling.cpu=101",
    "stream.shards=x",
    "serv.replicas=2",
    "data.size=big",
    "data.url=s3://user:key@bucket",
    "serve.disruption.minAvailable=-1",
    "serve.disruption.maxUnavailable=0",
    "serve.spread=always",
    "podLabels.helm\\.sh/chart=mine",
    "serve.ingress.enabled=true",
    "serve.ingress.hosts={https://shop.example.org}",
    "serve.ingress.paths={v1}",
    "serviceMonitor.interval=15",
    "serviceMonitor.apiKey.value=hunter2",
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_does_not_exist_or_fit_is_refused(wrong: str) -> None:
    assert "schema" in helm("template", "shop", CHART, "--set", wrong, fails=True)


def test_every_value_is_in_the_schema_and_the_version_is_the_package_s() -> None:
    def keys(value: Any, schema: dict[str, Any], path: str) -> None:
        if isinstance(value, dict) and schema.get("properties"):
            assert set(value) <= set(schema["properties"]), path
            for name, one in value.items():
                keys(one, schema["properties"][name], f"{path}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    keys(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tandem.__version__ and chart["version"] == tandem.__version__


def test_the_jobs_range_is_the_last_whole_days(tmp_path: Path) -> None:
    container = pods(rendered({"jobs": {"batch": {"days": 3}}}, tmp_path))["batch"]["containers"][0]
    shell, options, script, name = container["command"]
    words = [shell, options, script.replace("exec tandem", "echo tandem"), name, *container["args"]]
    said = subprocess.run(words, capture_output=True, text=True)
    asked = said.stdout.split()
    assert asked[:2] == ["tandem", "batch"] and asked[2::2] == ["--start", "--end", "--pinned"]
    days = [subprocess.run(["date", "-u", "-d", f"-{n} days", "+%F"], capture_output=True, text=True).stdout.strip() for n in (3, 0)]
    assert asked[3:6:2] == days


def test_a_command_is_a_job_with_what_the_release_s_pods_have(tmp_path: Path) -> None:
    values = {**VALUES["on an object store"], **VALUES["a command"]}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({name: value for name, value in values.items() if name != "command"}))
    words = ("--values", tmp_path / "values.yaml", "--show-only", "templates/command.yaml", "--set-string", "command={track,--last,2}")
    (job,) = yaml.safe_load_all(helm("template", "shop", CHART, *words))
    assert job["kind"] == "Job" and re.fullmatch(r"shop-tandem-command-\d{8}-\d{6}", job["metadata"]["name"]), "each time another one"
    found = pods(rendered(values, tmp_path))
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["track", "--last", "2"] and "command" not in pod["containers"][0]
    assert pod["containers"][0]["image"].startswith("tandem-train:") and pod["nodeSelector"] == {"pool": "batch"}
    assert pod["containers"][0]["env"] == found["batch"]["containers"][0]["env"] and pod["volumes"] == found["batch"]["volumes"]
    assert "Job" not in {p["kind"] for p in rendered({}, tmp_path)}
    assert "it would run again at each upgrade; take it out" in helm(
        "template", "shop", CHART, *words[:2], *words[4:], "--is-upgrade", fails=True
    )
    assert "kind: Job" not in helm("template", "shop", CHART, *words[:2], "--is-upgrade")


def test_the_stream_is_one_pod_also_while_it_is_moved(tmp_path: Path) -> None:
    long = "a-release-whose-name-is-as-long-as-helm-takes-a-name"
    parts = yaml.safe_load_all(helm("template", long, CHART))
    (stream,) = [p for p in parts if p and p["kind"] == "StatefulSet"]
    assert stream["spec"]["replicas"] == 1
    # By OrderedReady Kubernetes waits for a pod that never gets ready, and no correction or rollback replaces it.
    assert stream["spec"]["podManagementPolicy"] == "Parallel"
    # Its pods have a label of the name, a dash and a hash of ten characters, and labels end at 63.
    assert len(stream["metadata"]["name"]) <= 52 and stream["spec"]["serviceName"] == stream["metadata"]["name"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], False),
        (["--engine-option=parts=4"], False),
        (["--master=flink:8081", "--worker-command=tandem-worker"], True),
        (["--until=stopped", "--master", "flink:8081"], True),
        (["--runner", "flink-cluster"], True),
    ],
)
def test_parallel_tasks_are_asked_of_a_cluster_alone(args: list[str], told: bool, tmp_path: Path) -> None:
    """The embedded Flink would say at each start that it does not have them."""
    parts = rendered({"stream": {"shards": 4, "args": args}}, tmp_path)
    (stream,) = [p for p in parts if p["kind"] == "StatefulSet"]
    given = stream["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--shards=4" in given and ("--parallelism=4" in given) == told and given[-len(args) :] == (args or given)


def test_a_server_is_taken_from_its_service_before_it_stops(tmp_path: Path) -> None:
    parts = rendered({"serve": {"drainSeconds": 7, "stopSeconds": 40}}, tmp_path)
    pod = pods(parts)["serve"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert pod["terminationGracePeriodSeconds"] == 47
    (budget,) = [p for p in parts if p["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["maxUnavailable"] == 1 and "minAvailable" not in budget["spec"]
    assert {c["whenUnsatisfiable"] for c in pod["topologySpreadConstraints"]} == {"ScheduleAnyway"}


def test_the_budget_of_older_values_is_kept_with_a_warning(tmp_path: Path) -> None:
    for kept in (1, 0, "50%"):
        parts = rendered({"serve": {"disruption": {"minAvailable": kept}}}, tmp_path)
        (budget,) = [p for p in parts if p["kind"] == "PodDisruptionBudget"]
        assert budget["spec"]["minAvailable"] == kept and "maxUnavailable" not in budget["spec"]
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    # Helm shows notes when it installs, which wants a cluster; a value of a part is rendered without one.
    notes = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + notes + "{{ end }}")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | quote }}')

    def told(value: str) -> str:
        return helm("template", "shop", chart, "--show-only", "templates/notes.yaml", "--set", value)

    assert "serve.disruption.minAvailable is deprecated" in told("serve.disruption.minAvailable=1")
    assert "deprecated" not in told("serve.replicas=2")


def test_who_may_read_metrics_reaches_the_server_too(tmp_path: Path) -> None:
    def admitted(values: dict[str, Any]) -> dict[str, Any]:
        policies = [p for p in rendered({"networkPolicy": values}, tmp_path) if p["kind"] == "NetworkPolicy" and "ingress" in p["spec"]]
        return {p["metadata"]["name"].rsplit("-", 1)[1]: p["spec"]["ingress"][0].get("from", "everybody") for p in policies}

    clients, monitoring = ([{"namespaceSelector": {"matchLabels": {"team": name}}}] for name in ("pricing", "metrics"))
    assert admitted({}) == {"serve": "everybody", "stream": "everybody"}
    assert admitted({"monitoring": monitoring}) == {"serve": "everybody", "stream": monitoring}
    assert admitted({"clients": clients}) == {"serve": clients, "stream": "everybody"}
    assert admitted({"clients": clients, "monitoring": monitoring}) == {"serve": [*clients, *monitoring], "stream": monitoring}


def test_no_image_is_the_latest_and_no_folder_of_a_pod_takes_a_node_s_whole_disk(tmp_path: Path) -> None:
    for pod in pods(rendered(VALUES["on an object store"], tmp_path)).values():
        assert pod["containers"][0]["image"].endswith(f":{tandem.__version__}")
        folders = {v["name"]: v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v}
        assert folders and all("sizeLimit" in folder for folder in folders.values())


def test_jobs_are_placed_and_begin_late_rather_than_never(tmp_path: Path) -> None:
    parts = [p for p in rendered(VALUES["with secrets, TLS, a digest and rules"], tmp_path) if p["kind"] == "CronJob"]
    assert len(parts) == 3
    for part in parts:
        template = part["spec"]["jobTemplate"]["spec"]["template"]
        assert template["spec"]["nodeSelector"] == {"pool": "batch"} and template["spec"]["tolerations"]
        assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
        assert part["spec"]["startingDeadlineSeconds"] > 3600
