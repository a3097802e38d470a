"""Small openings, each by its own test."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.alerting.webhook import Webhook
from pipelines.project.config import AlertSettings
from pipelines.project.secrets import Secret
from pipelines.streaming.stream_control import stop_stream, stream_status
from transforms.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", [".", "..", "a/b", "../x", "", "a b", "/tmp/x"])
def test_a_streams_name_is_no_path_and_a_look_makes_no_folder(tmp_path: Path, name: str) -> None:
    """SECURITY low (stream names): ``stream status --name .`` made folders."""
    (tmp_path / "stream").mkdir()
    for ask in (stream_status, stop_stream):
        with pytest.raises(ConfigError, match="use letters, digits"):
            ask(tmp_path, name)
    assert list((tmp_path / "stream").iterdir()) == []


def test_a_look_at_what_is_no_stream_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "stream" / "other").mkdir(parents=True)
    for name in ("other", "none"):
        assert stream_status(tmp_path, name).to_dict() == {"name": name, "running": False}
    assert [p.name for p in (tmp_path / "stream").rglob("*")] == ["other"]


@pytest.mark.parametrize(("mask", "mode"), [(None, 0o600), ("027", 0o640), ("none", 0o600)])
def test_what_commands_write_is_their_users_alone(tmp_path: Path, mask: str | None, mode: int) -> None:
    """SECURITY low (file modes): they were 0644."""
    code = (
        "from pipelines.cli import root; from pathlib import Path; import sys\n"
        "root.app = lambda: Path(sys.argv[1]).write_text('x')\n"
        "root.main()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TANDEM_UMASK"} | ({"TANDEM_UMASK": mask} if mask else {})
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "file")], check=True, cwd=ROOT, env=environment, timeout=120)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://hooks.example/x", True),
        ("http://10.0.0.1/x", True),
        ("https://hooks.example/x", False),
        ("http://127.0.0.1:1/x", False),
        ("http://[::1]:1/x", False),
        ("http://localhost:1/x", False),
    ],
)
def test_a_webhook_without_tls_is_warned_of(caplog: pytest.LogCaptureFixture, url: str, warned: bool) -> None:
    """SECURITY low (webhooks without TLS)."""
    with caplog.at_level(logging.WARNING, "tandem.alerting"):
        Webhook(AlertSettings(webhook=Secret(url), secret=Secret("hidden")))
    assert (len(caplog.records) == 1) is warned
    assert "hidden" not in caplog.text and "/x" not in caplog.text.replace("https://;", "")


def test_grafana_has_no_password_that_everybody_knows() -> None:
    """SECURITY low (known passwords): admin, admin."""
    grafana = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["grafana"]["environment"]
    assert grafana["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")
