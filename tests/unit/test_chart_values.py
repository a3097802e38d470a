"""The chart's values are no place for secrets: whatever they are called, and wherever in a value they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docker/helm/tandem/values.schema.json").read_text())["properties"]["env"]


def taken(name: str, value: str) -> bool:
    names, values = SCHEMA["propertyNames"], SCHEMA["additionalProperties"]
    fits = re.search(names["pattern"], name) and not re.search(names["not"]["pattern"], name)
    return bool(fits) and not re.search(values["not"]["pattern"], value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_KAFKA__SASL_PASSWORD", "x"), ("tandem_kafka__sasl_password", "x"), ("Tandem_Alerts__Secret", "x"), ("TANDEM_API_KEY", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"), ("TANDEM_AUDIT_KEY", "x"), ("MLFLOW_TRACKING_PASSWORD", "x"), ("SHOP_DB_PASS", "x"),
        ("VAULT_TOKEN", "x"), ("TANDEM_ALERTS__WEBHOOK", "x"), ("GOOGLE_CREDENTIALS", "x"), ("REDIS", "redis://:hunter22@valkey:6379"),
        ("SHOP_DB", "postgresql://ann:hunter22@db/shop"), ("SHOP_DB", "host=db password=hunter22"), ("SHOP_DB", "Host=db;Password = h"),
    ],
)  # fmt: skip
def test_secrets_are_refused(name: str, value: str) -> None:
    assert not taken(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_KAFKA__BOOTSTRAP_SERVERS", "kafka-0:9092,kafka-1:9092"), ("REDIS", "valkey:6379"),
        ("TANDEM_TRACKING__URI", "http://mlflow:5000/a@b"),
        ("TANDEM_API_KEY_FILE", "/run/secrets/key"), ("TANDEM_MODEL_PUBLIC_KEY_FILE", "/run/model.pub"), ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("TANDEM_SECRETS_DIR", "/run/secrets"), ("MAIL", "ops@example.org"), ("TANDEM_KAFKA__SASL_MECHANISM", "SCRAM-SHA-512"),
    ],
)  # fmt: skip
def test_settings_are_taken(name: str, value: str) -> None:
    assert taken(name, value)
