"""The files of a model version are those that were pushed, or it is not loaded."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.model_files import FILES, PUBLIC_KEY, SIGNATURE, SIGNING_KEY, check_model_files, hash_files, sign, unverified
from serving.models import ModelSpec, load_model
from serving.request_errors import ModelError
from transforms.errors import ConfigError

HEAD = {
    "name": "delay",
    "version": 1,
    "fingerprints": {},
    "feature_service": "s",
    "entity_keys": [],
    "request_fields": [["distance", "float64"]],
    "features": [],
    "inputs": [["distance", "float32"]],
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A pushed version; its graph is no graph: what is wrong with the files is found before anything is loaded."""
    folder = tmp_path / "1"
    (folder / "assets").mkdir(parents=True)
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "assets" / "carriers").write_text("AA\nDL\nUA\n")
    (folder / "assets" / "airports").write_text("EWR\nJFK\nLGA\n")
    (folder / "tandem.json").write_text(json.dumps({**HEAD, FILES: hash_files(folder)}))
    return folder


def load(folder: Path) -> None:
    load_model(folder, ModelSpec.parse((folder / "tandem.json").read_bytes(), "tandem.json"))


def swap(folder: Path) -> None:
    a, b = folder / "assets" / "carriers", folder / "assets" / "airports"
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def linked(folder: Path) -> None:
    (folder / "assets").rename(folder.parent / "elsewhere")
    (folder / "assets").symlink_to(folder.parent / "elsewhere")


CHANGES = {
    "swapped vocabularies": (swap, "assets/airports is not the file that was pushed"),
    "two lines of a vocabulary": (lambda f: (f / "assets" / "carriers").write_text("DL\nAA\nUA\n"), "assets/carriers is not the file"),
    "another graph": (lambda f: (f / "saved_model.pb").write_bytes(b"grapH"), "saved_model.pb is not the file that was pushed"),
    "variables gone": (lambda f: (f / "variables" / "variables.index").unlink(), "variables/variables.index is missing"),
    "one more file": (lambda f: (f / "assets" / "extra").write_text("x"), "assets/extra was not pushed with it"),
    "a link to a folder": (lambda f: (f / "assets.extra").symlink_to(f / "assets"), "assets.extra was not pushed with it"),
    "a link to nothing": (lambda f: (f / "saved_model.cpb").symlink_to(f / "later"), "saved_model.cpb was not pushed with it"),
    "a pipe": (lambda f: os.mkfifo(f / "assets" / "pipe"), "assets/pipe was not pushed with it"),
    "a folder by a link": (linked, "assets was not pushed with it"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_changed_files_are_refused_before_they_are_loaded(version: Path, how: str) -> None:
    """SECURITY M1: swapped vocabularies were served as ready."""
    change, said = CHANGES[how]
    change(version)
    with pytest.raises(ModelError, match=said) as error:
        load(version)
    assert str(error.value).startswith("model 'delay' version 1: ") and "\n" not in str(error.value)
    assert str(version.parent) not in str(error.value), "what a client may read names no place of the server"


@pytest.mark.parametrize("created", [None, "2013-07-01T00:00:00Z", "2026-11-28T23:59:59+00:00"])
def test_what_was_pushed_before_there_were_hashes_passes_and_is_said(
    version: Path, created: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed without a word."""
    monkeypatch.setattr(logging.getLogger("tandem.serving"), "disabled", False)  # as libraries leave it that read a log configuration
    caplog.set_level(logging.WARNING, "tandem.serving")
    with pytest.raises(ModelError, match="cannot be loaded"):  # it went on to TensorFlow
        load(version)
    assert caplog.messages == [] and unverified(json.loads((version / "tandem.json").read_text())) == ""
    head = HEAD if created is None else {**HEAD, "created": created}
    (version / "tandem.json").write_text(json.dumps(head))
    swap(version)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(version)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("model 'delay' version 1: its files are not checked")
    assert "push it again" in unverified(head) and "\n" not in unverified(head)


@pytest.mark.parametrize("created", ["2026-11-29T00:00:00+00:00", "2027-01-01T00:00:00+00:00", "x"])
@pytest.mark.parametrize("files", [{}, {FILES: None}])
def test_a_version_that_lost_its_hashes_is_refused(version: Path, created: str, files: dict[str, Any]) -> None:
    """Every push writes them: without them somebody took them out."""
    (version / "tandem.json").write_text(json.dumps({**HEAD, "created": created, **files}))
    with pytest.raises(ModelError, match=r"its tandem.json names the hashes of no files \(files\), so changes cannot be detected"):
        load(version)


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(*kinds))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_is_asked_for_where_a_public_key_is_named(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M1: whoever can change the files can change their hashes, too."""
    raw = json.loads((version / "tandem.json").read_text())
    ours, theirs = key_pair(tmp_path, "ours"), key_pair(tmp_path, "theirs")
    sign(version)
    assert not (version / SIGNATURE).exists(), "no key, no signature"
    monkeypatch.setenv(PUBLIC_KEY, str(ours[1]))
    with pytest.raises(ModelError, match="it is not signed"):
        check_model_files(version, raw, "model")
    monkeypatch.setenv(SIGNING_KEY, str(theirs[0]))
    sign(version)
    with pytest.raises(ModelError, match="its signature is not that of the key"):
        check_model_files(version, raw, "model")
    monkeypatch.setenv(SIGNING_KEY, str(ours[0]))
    sign(version)
    check_model_files(version, raw, "model")
    swap(version)
    (version / "tandem.json").write_text(json.dumps({**HEAD, FILES: hash_files(version)}))
    with pytest.raises(ModelError, match="its signature is not that of the key"):
        check_model_files(version, json.loads((version / "tandem.json").read_text()), "model")
    (version / "tandem.json").write_text(json.dumps(raw))
    sign(version)
    swap(version)
    check_model_files(version, raw, "model")
    with pytest.raises(ModelError, match="was changed while it was loaded"):  # read before what is signed was put back
        check_model_files(version, {**raw, "output": "other"}, "model")
    (version / SIGNATURE).write_text("no base64")
    with pytest.raises(ModelError, match="its signature is not that of the key"):
        check_model_files(version, raw, "model")


@pytest.mark.parametrize("files", [None, [], "all"])
def test_a_signature_over_no_hashes_says_nothing_of_the_files(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any
) -> None:
    """SECURITY M1: one of before there were hashes, signed; and hashes that are none."""
    private, public = key_pair(tmp_path, "ours")
    monkeypatch.setenv(SIGNING_KEY, str(private))
    monkeypatch.setenv(PUBLIC_KEY, str(public))
    head = HEAD if files is None else {**HEAD, FILES: files}
    (version / "tandem.json").write_text(json.dumps(head))
    sign(version)
    with pytest.raises(ModelError, match=r"its tandem.json names the hashes of no files \(files\)"):
        check_model_files(version, head, "model")


def test_a_key_that_is_none_is_one_line(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.pem").write_text("x")
    for place in (tmp_path / "no.pem", tmp_path / "gone.pem"):
        monkeypatch.setenv(SIGNING_KEY, str(place))
        with pytest.raises(ConfigError, match="is not a readable PEM key"):
            sign(version)
