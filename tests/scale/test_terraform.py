"""The Terraform module: formatted, validated and planned by OpenTofu itself; what it gives to the chart, rendered by helm.

Providers come from no registry here. A stand-in has their resources (``provider/schemas.json``: hashicorp/aws 6.25, hashicorp/helm 3.1 and
Mongey/kafka 0.13, attribute by attribute) and makes nothing, so that a name, a type or a block that a provider does not know is found, and
a plan is made; what a provider itself refuses is not. ``TANDEM_PROVIDERS`` names a folder of real ones (a file system mirror).
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.kafka.dead_letters import MAX_BYTES
from tests.scale.containers import ROOT
from tests.scale.test_chart import DIGEST, pods, rendered
from tests.scale.tools import PROVIDER, stand_in_provider, tofu

MODULE = ROOT / "docker" / "terraform"
VERSIONS = {"hashicorp/aws": "6.25.0", "hashicorp/helm": "3.1.2", "mongey/kafka": "0.13.1"}
ACCOUNT = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC"
GIVEN: dict[str, Any] = {
    "name": "shop",
    "bucket": {"name": "shop-tandem", "requests_days": 90},
    "network": {"vpc_id": "vpc-1", "subnet_ids": ["subnet-1", "subnet-2"], "client_ids": ["sg-1"]},
    "kafka": {"bootstrap_servers": "kafka-1:9092,kafka-2:9092"},
    "topics": {"payments": {"partitions": 24, "retention_days": 7}, "fraud_reports": {}},
    "oidc_provider_arn": ACCOUNT,
    "images": {part: {"repository": f"registry.example.org/shop-{part}", "digest": DIGEST} for part in ("serve", "worker", "train")},
    "values": {"secrets": {"apiKey": {"secret": "shop-api-key"}}, "stream": {"shards": 4}},
}


class Tofu:
    """OpenTofu over a root module that calls ours with the variables of a JSON file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, tofu()
        root = {
            "module": {"tandem": {"source": str(MODULE), **{name: f"${{var.{name}}}" for name in (*GIVEN, "redis")}}},
            "variable": {**{name: {"type": "any"} for name in GIVEN}, "redis": {"type": "any", "default": {}}},
            "output": {"data": {"value": "${module.tandem.data}"}, "topics": {"value": "${module.tandem.topics}"}},
        }
        (folder / "main.tf.json").write_text(json.dumps(root))
        (folder / "tofurc").write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{self._providers()}"\n  }}\n}}\n')
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_", "KUBE_", "KAFKA_"))},
            "TF_CLI_CONFIG_FILE": str(folder / "tofurc"), "TERRAFORM_SCHEMAS": str(PROVIDER / "schemas.json"), "CHECKPOINT_DISABLE": "1",
        }  # fmt: skip
        self.run("init", "-input=false", "-no-color")

    def _providers(self) -> Path:
        if given := os.environ.get("TANDEM_PROVIDERS"):
            return Path(given)
        platform = f"linux_{ {'x86_64': 'amd64', 'aarch64': 'arm64'}[os.uname().machine] }"
        for name, version in VERSIONS.items():
            place = self.folder / "providers" / "registry.opentofu.org" / name / version / platform
            place.mkdir(parents=True)
            shutil.copy(stand_in_provider(), place / f"terraform-provider-{name.split('/')[1]}_v{version}")
        return self.folder / "providers"

    def at(self, folder: Path) -> Tofu:
        """The same over another root module."""
        other = copy.copy(self)
        other.folder = folder
        return other

    def run(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run([self.program, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr if fails else done.stdout

    def plan(self, **changes: Any) -> dict[str, Any]:
        """What would be made, by address within the module, and the outputs."""
        (self.folder / "terraform.tfvars.json").write_text(json.dumps({**GIVEN, **changes}))
        self.run("plan", "-input=false", "-no-color", "-out=plan")
        found: dict[str, Any] = json.loads(self.run("show", "-json", "plan"))
        made = {
            change["address"].removeprefix("module.tandem."): {**change["change"]["after"], "unknown": change["change"]["after_unknown"]}
            for change in found["resource_changes"]
        }
        return {**made, "outputs": found["planned_values"]["outputs"]}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Tofu:
    return Tofu(tmp_path_factory.mktemp("terraform"))


@pytest.fixture(scope="module")
def plan(module: Tofu) -> dict[str, Any]:
    return module.plan()


@pytest.fixture(scope="module")
def alone(module: Tofu, tmp_path_factory: pytest.TempPathFactory) -> Tofu:
    """What of the module needs no provider: its variables, and the values that it gives to the chart.

    An address and a role, which only AWS could say, stand in for those of Redis and of the pods.
    """
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(MODULE / "variables.tf", folder)
    release, _, _ = (MODULE / "release.tf").read_text().partition('resource "helm_release"')
    (folder / "release.tf").write_text(release.replace("aws_iam_role.pods.arn", '"arn:aws:iam::123456789012:role/shop"'))
    stand_in = {"locals": {"redis": "redis.example.org:6379", "release": "shop-tandem"}, "output": {"values": {"value": "${local.values}"}}}
    (folder / "main.tf.json").write_text(json.dumps(stand_in))
    made = module.at(folder)
    made.run("init", "-input=false")
    return made


def test_it_is_formatted_and_valid(module: Tofu, tmp_path: Path) -> None:
    module.run("fmt", "-check", "-diff", str(MODULE))
    assert "Success" in module.run("validate", "-no-color")
    for file in MODULE.glob("*.tf"):
        shutil.copy(file, tmp_path)
    (tmp_path / "redis.tf").write_text((tmp_path / "redis.tf").read_text().replace("num_cache_clusters", "number_cache_clusters"))
    (module.folder / "wrong").mkdir()
    (module.folder / "wrong" / "main.tf.json").write_text((module.folder / "main.tf.json").read_text().replace(str(MODULE), str(tmp_path)))
    wrong = module.at(module.folder / "wrong")
    wrong.run("init", "-input=false", "-no-color")
    assert "number_cache_clusters" in wrong.run("validate", "-no-color", fails=True), "what a provider does not know is found"


def test_a_plan_makes_bucket_redis_topics_and_release(plan: dict[str, Any]) -> None:
    assert plan["aws_s3_bucket.data"]["bucket"] == "shop-tandem" and not plan["aws_s3_bucket.data"]["force_destroy"]
    assert all(plan["aws_s3_bucket_public_access_block.data"][name] for name in ("block_public_acls", "restrict_public_buckets"))
    first, second = plan["aws_s3_bucket_lifecycle_configuration.data"]["rule"]
    assert first["noncurrent_version_expiration"][0]["noncurrent_days"] == 7 and first["expiration"][0]["expired_object_delete_marker"]
    assert second["filter"][0]["prefix"] == "tandem/requests/" and second["expiration"][0]["days"] == 90
    redis = plan["aws_elasticache_replication_group.online"]
    assert redis["num_cache_clusters"] == 2 and redis["automatic_failover_enabled"] and redis["transit_encryption_enabled"]
    assert {"name": "maxmemory-policy", "value": "noeviction"} in plan["aws_elasticache_parameter_group.online"]["parameter"]
    assert plan["aws_vpc_security_group_ingress_rule.redis[0]"]["from_port"] == 6379
    payments = plan['kafka_topic.source["payments"]']
    assert (payments["partitions"], payments["replication_factor"], payments["config"]["retention.ms"]) == (24, 3, "604800000")
    assert plan['kafka_topic.source["fraud_reports"]']["config"]["retention.ms"] == "-1"
    letters = plan["kafka_topic.dead_letters"]
    assert letters["partitions"] == 1 and letters["config"]["max.message.bytes"] == str(MAX_BYTES)
    assert plan["outputs"]["data"]["value"] == "s3://shop-tandem/tandem"
    assert plan["outputs"]["topics"]["value"] == ["fraud_reports", "payments", "tandem.dead_letters"]
    assert plan["helm_release.tandem"]["namespace"] == "tandem" and plan["helm_release.tandem"]["name"] == "shop"


def test_the_pods_may_use_their_prefix_and_nothing_else(plan: dict[str, Any]) -> None:
    trust = json.loads(plan["aws_iam_role.pods"]["assume_role_policy"])["Statement"][0]["Condition"]["StringEquals"]
    assert trust["oidc.eks.eu-central-1.amazonaws.com/id/ABC:sub"] == "system:serviceaccount:tandem:shop-tandem"
    listing, objects = json.loads(plan["aws_iam_role_policy.data"]["policy"])["Statement"]
    assert listing["Resource"] == "arn:aws:s3:::shop-tandem" and objects["Resource"] == "arn:aws:s3:::shop-tandem/tandem/*"
    assert objects["Action"] == ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


def test_a_key_and_users_of_one_s_own(module: Tofu, plan: dict[str, Any]) -> None:
    def encryption(plan: dict[str, Any]) -> tuple[str, Any]:
        (rule,) = plan["aws_s3_bucket_server_side_encryption_configuration.data"]["rule"]
        (default,) = rule["apply_server_side_encryption_by_default"]
        return default["sse_algorithm"], default.get("kms_master_key_id")

    key = "arn:aws:kms:eu-central-1:123456789012:key/1234"
    own = module.plan(bucket={**GIVEN["bucket"], "kms_key_arn": key}, redis={"user_group_ids": ["shop"]})
    assert encryption(plan) == ("AES256", None) and encryption(own) == ("aws:kms", key)
    last = json.loads(own["aws_iam_role_policy.data"]["policy"])["Statement"][-1]
    assert last == {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key}
    assert own["aws_elasticache_replication_group.online"]["user_group_ids"] == ["shop"]


def test_the_chart_takes_what_the_module_gives_it(alone: Tofu, tmp_path: Path) -> None:
    (alone.folder / "terraform.tfvars.json").write_text(json.dumps(GIVEN))
    alone.run("apply", "-input=false", "-auto-approve")
    given: dict[str, Any] = json.loads(alone.run("output", "-json", "values"))
    parts = rendered({**given, **GIVEN["values"]}, tmp_path)
    environment = {e["name"]: e.get("value") for e in pods(parts)["stream"]["containers"][0]["env"]}
    assert environment["TANDEM_DATA"] == "s3://shop-tandem/tandem" and environment["TANDEM_CACHE"] == "/repo/data"
    assert environment["REDIS"] == "redis.example.org:6379,ssl=true"
    assert environment["TANDEM_KAFKA__BOOTSTRAP_SERVERS"] == GIVEN["kafka"]["bootstrap_servers"]
    (account,) = [p for p in parts if p["kind"] == "ServiceAccount"]
    assert account["metadata"]["name"] == "shop-tandem" and "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    (claim,) = [p for p in parts if p["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    volumes = {name: {v["name"]: v for v in pod["volumes"]}["data"] for name, pod in pods(parts).items()}
    assert [name for name, v in volumes.items() if "persistentVolumeClaim" in v] == ["stream"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Shop_"}, "A name is 2 to 32"),
        ({"bucket": {"name": "Shop"}}, "bucket.name"),
        ({"bucket": {"name": "shop", "prefix": "/a/"}}, "bucket.prefix"),
        ({"bucket": {"name": "shop", "kms_key_arn": "alias/shop"}}, "bucket.kms_key_arn"),
        ({"redis": {"node_type": "db.small"}}, "redis.node_type"),
        ({"kafka": {"bootstrap_servers": "kafka"}}, "host:port"),
        ({"topics": {"payments": {"retention_days": 0}}}, "retention_days"),
        ({"topics": {"pay ments": {}}}, "topics: a name"),
        ({"images": {"serve": GIVEN["images"]["serve"]}}, "serve, worker and train"),
        ({"oidc_provider_arn": "shop"}, "oidc_provider_arn"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(alone: Tofu, wrong: dict[str, Any], said: str) -> None:
    (alone.folder / "terraform.tfvars.json").write_text(json.dumps({**GIVEN, **wrong}))
    assert said in " ".join(alone.run("plan", "-input=false", "-no-color", fails=True).replace("│", " ").split())


def test_every_variable_and_output_is_described() -> None:
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        blocks = (MODULE / file).read_text().split(f'\n{kind} "')
        assert len(blocks) > 1 and all("description" in block for block in blocks if block.strip())
