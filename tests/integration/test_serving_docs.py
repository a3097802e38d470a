"""The server's own page (FAULTS 35): of this project's models and views, with examples that are answered, and every status that occurs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.api_keys import add_key
from serving.app import create_app
from tests.integration.serving_world import make_world, settings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("docs"), 1, 2)


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(world))) as c:
        yield c


def operations(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_example_is_answered_as_it_stands(client: TestClient) -> None:
    tried = 0
    for method, path, operation in operations(client):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            answer = client.request(method, path.replace("{name}", "delay").replace("{version}", "2"), json=media["example"])
            assert answer.status_code == 200, (path, answer.text)
            tried += 1
    assert tried == 5


def test_the_page_lists_what_this_server_has_and_nothing_else(client: TestClient) -> None:
    page = client.get("/docs").text
    for word in ("delay", "version 2 answers; also loaded: 1", "origin_traffic", "last_delay", "distance", "feature service", "count_1h"):
        assert word in page, word
    assert "tandem_fingerprint" not in page
    assert not re.search(r"<script|https?:|src=", page)
    assert '<link rel="icon" href="data:,">' in page  # a browser would ask the server for one, which has none
    assert 'name="viewport"' in page
    text = re.sub(r"<[^>]*>", "", page)
    for foreign in ("JFK", "LGA", "B6"):  # values of one project's data are no example for another's
        assert foreign not in text


class Loaded(HTMLParser):
    """What a page has a browser take: its own styles, scripts and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.styles: list[str] = []
        self.others: list[tuple[str, str]] = []
        self._in_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        loads = [(name, value or "") for name, value in attrs if name in ("style", "src", "srcset", "action", "data") or name[:2] == "on"]
        self.others += loads + [(tag, "") for _ in [0] if tag in ("script", "base", "form", "iframe", "object", "embed", "img")]
        self.others += [(tag, value or "") for name, value in attrs if tag == "link" and name == "href"]

    def handle_data(self, data: str) -> None:
        if self._in_style and data.strip():
            self.styles.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def test_a_browser_takes_the_pages_own_styles_and_nothing_else(client: TestClient) -> None:
    """What the page has is what its policy lets through: the styles by their hash, and an icon that is none."""
    answer = client.get("/docs")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    loaded = Loaded(answer.text)
    assert loaded.others == [("link", "data:,")] and len(loaded.styles) == 1
    digest = base64.b64encode(hashlib.sha256(loaded.styles[0].encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_another_project_sees_no_flights(tmp_path: Path) -> None:
    """With nothing in it yet the page is there, and speaks of nobody's features."""
    (tmp_path / "repo").mkdir()
    text = f"project: shops\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
    (tmp_path / "repo" / "feature_store.yaml").write_text(text + f"online_store: {{type: sqlite, path: {tmp_path}/online.db}}\n")
    with TestClient(create_app(settings(tmp_path))) as client:
        page, document = client.get("/docs").text, client.get("/openapi.json").text
    for word in ("origin", "carrier", "flight", "JFK"):
        assert word not in page and word not in document, word
    assert "None that you may ask for." in page


def test_statuses_that_occur_are_in_the_document(client: TestClient) -> None:
    """SECURITY low (statuses in OpenAPI): 401, 403, 404, 413, 429 and 503 are told too."""
    told = {(method, path): set(operation["responses"]) for method, path, operation in operations(client)}
    body = {"200", "400", "401", "403", "404", "413", "415", "422", "429", "503"}
    assert told[("POST", "/v1/models/{name}:predict")] == told[("POST", "/v2/models/{name}/infer")] == body
    assert told[("POST", "/get-online-features")] == body
    assert told[("GET", "/v2/models/{name}")] == {"200", "401", "403", "404", "503"}
    assert told[("GET", "/metrics")] == {"200", "401", "403"}
    assert told[("GET", "/v2/health/live")] == {"200"}
    assert told[("GET", "/v2/health/ready")] == {"200", "503"}
    document = json.dumps(client.get("/openapi.json").json())
    assert "ValidationError" not in document and document.count('"404"') > 5


def test_the_page_shows_what_the_caller_may_ask_for(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    narrow = add_key(file, "narrow", ["view:aircraft"], datetime.now(UTC))
    with TestClient(create_app(settings(world, keys=file))) as client:
        page = client.get("/docs", auth=("x", narrow)).text
        document = client.get("/openapi.json", auth=("x", narrow)).text
    for hidden in ("origin_traffic", "delay</code>", "feature service <code>"):
        assert hidden not in page.replace("last_delay</code>", ""), hidden
    assert "aircraft" in page and "origin" not in document
