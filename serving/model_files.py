"""A model version's files: their hashes in ``tandem.json``, checked before they are loaded; and an optional signature over that.

The push writes ``files`` (path -> SHA-256). With a private key (``TANDEM_MODEL_SIGNING_KEY_FILE``, Ed25519, PEM) it signs ``tandem.json``,
and so all files, into ``tandem.json.sig``; where ``TANDEM_MODEL_PUBLIC_KEY_FILE`` names the public key, nothing unsigned is loaded.
Training and serving share this.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.request_errors import ModelError
from transforms.data_folder import SPEC_FILE
from transforms.errors import ConfigError

__all__ = ["FILES", "PUBLIC_KEY", "SIGNATURE", "SIGNING_KEY", "check_model_files", "hash_files", "sign", "unverified"]

FILES = "files"
_SINCE = "2026-11-29"
"""Every push since this day (of UTC) has written hashes."""
SIGNATURE = f"{SPEC_FILE}.sig"
SIGNING_KEY, PUBLIC_KEY = "TANDEM_MODEL_SIGNING_KEY_FILE", "TANDEM_MODEL_PUBLIC_KEY_FILE"


def hash_files(folder: Path) -> dict[str, str]:
    """Path below ``folder`` -> SHA-256 (hexadecimal) of every file but ``tandem.json`` and its signature. What is neither a file nor a
    folder of its own (a link to a folder or to nothing, a pipe) has ``""``: what lies behind it may be another thing each time."""
    out = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            if name not in (SPEC_FILE, SIGNATURE):
                with open(path, "rb") as file:
                    out[name] = hashlib.file_digest(file, "sha256").hexdigest()
        elif path.is_symlink() or not path.is_dir():
            out[name] = ""
    return out


def check_model_files(folder: Path, raw: Mapping[str, Any], what: str) -> None:
    """Raise ModelError, which begins with ``what``, unless the files are those that were pushed, and signed where that is asked for.

    ``raw`` is ``tandem.json``. A version that was pushed before there were hashes has none (:func:`unverified`): it passes, unless a
    signature is asked for.
    """
    _check_signature(folder, raw, what)
    listed = raw.get(FILES)
    if unverified(raw) and not os.environ.get(PUBLIC_KEY):
        return
    if not isinstance(listed, Mapping):
        raise ModelError(f"{what}: its {SPEC_FILE} names the hashes of no files ({FILES}), so changes cannot be detected; push it again")
    try:
        found = hash_files(folder)
    except OSError as error:
        raise ModelError(f"{what}: its files cannot be read ({error.strerror}); push it again") from None
    for name in sorted(set(found) | set(listed)):
        if found.get(name) != listed.get(name):
            how = (
                "is missing" if name not in found else "was not pushed with it" if name not in listed else "is not the file that was pushed"
            )
            raise ModelError(f"{what}: {name} {how} (SHA-256, {SPEC_FILE}); push it again")


def unverified(raw: Mapping[str, Any]) -> str:
    """What to know of a version whose ``tandem.json`` was written before there were hashes; empty where its files can be, and are, checked.

    One that says of itself that it is younger has lost them: it is not excused."""
    if raw.get(FILES) is not None or str(raw.get("created", "")) >= _SINCE:
        return ""
    return f"its files are not checked, as its {SPEC_FILE} has no hashes of them (it was pushed before there were any); push it again"


def sign(folder: Path) -> None:
    """Sign ``tandem.json`` in ``folder`` where the environment names a key. Raises ConfigError for one that cannot be used."""
    place = os.environ.get(SIGNING_KEY, "")
    if place:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = _key(SIGNING_KEY, place, private=True)
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{SIGNING_KEY}: {place} is not an Ed25519 key; create one with 'openssl genpkey -algorithm ed25519'")
        signature = key.sign((folder / SPEC_FILE).read_bytes())
        (folder / SIGNATURE).write_text(base64.b64encode(signature).decode() + "\n", "ascii")


def _check_signature(folder: Path, raw: Mapping[str, Any], what: str) -> None:
    place = os.environ.get(PUBLIC_KEY, "")
    if not place:
        return
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _key(PUBLIC_KEY, place, private=False)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{PUBLIC_KEY}: {place} is not an Ed25519 key; create it with 'openssl pkey -pubout' of the signing key")
    try:
        signed = (folder / SPEC_FILE).read_bytes()
        key.verify(base64.b64decode((folder / SIGNATURE).read_text("ascii").strip(), validate=True), signed)
        if json.loads(signed) != raw:  # what is gone by was read before
            raise ModelError(f"{what}: its {SPEC_FILE} was changed while it was loaded; push it again")
    except FileNotFoundError:
        raise ModelError(f"{what}: it is not signed, and {PUBLIC_KEY} asks for it; push it again with {SIGNING_KEY}") from None
    except (InvalidSignature, ValueError, OSError):
        raise ModelError(f"{what}: its signature is not that of the key in {PUBLIC_KEY}; push it again") from None


def _key(variable: str, place: str, private: bool) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise ConfigError(f"{variable} needs the package cryptography; pip install cryptography") from None
    try:
        data = Path(place).read_bytes()
        return serialization.load_pem_private_key(data, None) if private else serialization.load_pem_public_key(data)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{variable}: {place} is not a readable PEM key ({type(error).__name__}); correct the path") from None
