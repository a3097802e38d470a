"""What is this user's alone: folders for sockets, files with secrets. Light: standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from transforms.errors import ConfigError
from transforms.files import write_text

__all__ = ["UNIX_SOCKETS", "socket_folder", "sounds_secret", "without_secrets", "write_private"]

UNIX_SOCKETS = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64")
"""Whether gRPC's Java side has Unix sockets here (its epoll library); elsewhere it takes ports of the loopback interface."""
_LONGEST = 80
"""Bytes of the folder's path: a socket's whole path may have 107."""


def socket_folder(owner: Path) -> Path:
    """A folder for the sockets of what lies in ``owner``: short, mode 0700, the same each time. Raises ConfigError.

    Below ``XDG_RUNTIME_DIR`` or the folder for temporary files. One that another user made there in advance is refused.
    """
    name = f"tandem-{os.getuid()}-{hashlib.sha256(os.fsencode(owner.resolve())).hexdigest()[:16]}"
    bases = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    path = next(p for base in bases if base and os.path.isdir(base) and len(os.fsencode(p := Path(base) / name)) <= _LONGEST)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{path} is not this user's folder; remove it, or set TMPDIR to a folder of your own") from None
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a file that its owner alone may read (0600), from its first moment on; a reader sees the old text or the new.

    ``durable``: what is there outlives a power loss whole, old or new.
    """
    write_text(path, text, durable=durable, mode=0o600)


def sounds_secret(key: str) -> bool:
    """Whether a key that nobody knows is called like a secret, if only roughly."""
    return re.search(r"pass|pas+w|pwd|secret|token|credential|key|webhook|auth", key, re.IGNORECASE) is not None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that needs no secret of the settings, nor what opens Vault."""
    return {k: v for k, v in environment.items() if not (k.upper().startswith(("TANDEM_", "VAULT_")) and sounds_secret(k))}
