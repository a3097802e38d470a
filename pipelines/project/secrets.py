"""Secrets of the settings: where they come from, and how they stay where they are.

A secret is given, first found first taken, by the environment (``TANDEM_KAFKA__SASL_PASSWORD``), by a file that the environment names
(``TANDEM_KAFKA__SASL_PASSWORD_FILE``), by a file of the secrets folder (``TANDEM_SECRETS_DIR``, e.g. ``/run/secrets``:
``kafka__sasl_password``, also with ``tandem_`` before it), by Vault (``VAULT_ADDR``, ``VAULT_TOKEN`` or what else hvac finds, and
``TANDEM_VAULT_PATH``, e.g. ``secret/tandem``: the key ``kafka.sasl_password`` of that entry of a KV store, version 2), or by
``tandem.yaml``.

It is printed as stars, and pickled as a reference: what crosses a process border names the secret, and the process that needs its value
reads it anew, from where it runs.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from serving.masking import without_named_secrets
from transforms.errors import ConfigError

__all__ = ["EnvironmentSource", "Secret", "SecretSource", "bind", "masked", "secret_fields"]


class Secret(SecretStr):
    """A text that is never shown; :meth:`get_secret_value` gives it. See the module."""

    _reference: tuple[Callable[[Path], Any], str, str] | None = None

    def get_secret_value(self) -> str:
        """The value; read where this process runs, if the secret came from another one. Raises ConfigError where it is not to be had."""
        if self._secret_value is None:
            assert self._reference is not None
            self._secret_value = _read(*self._reference)
        return self._secret_value

    @classmethod
    def of_file(cls, path: Path) -> Secret:
        """What a file holds, read where it is needed."""
        return _referenced(_text_of, str(path), "")

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reference is None:
            raise TypeError("a secret that does not come from a repository's settings cannot leave its process")
        return _referenced, self._reference

    def __str__(self) -> str:
        return "**********"

    def __repr__(self) -> str:
        return "Secret('**********')"


def _referenced(read: Callable[[Path], Any], repo: str, key: str) -> Secret:
    secret = Secret(cast(str, None))  # not read yet
    secret._reference = (read, repo, key)
    return secret


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); correct its permissions") from None


def _read(read: Callable[[Path], Any], repo: str, key: str) -> str:
    value: Any = read(Path(repo))
    if isinstance(value, str):
        return value
    for part in key.split("."):
        value = getattr(value, part)
    if value is None:
        variable = "TANDEM_" + key.upper().replace(".", "__")
        raise ConfigError(f"{key} is a secret that is not set in this process; set {variable} or {variable}_FILE there, too")
    return str(value.get_secret_value())


def _fields(model: type[BaseModel], nested: bool, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        yield (*before, name), field
        if nested and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, nested, (*before, name))


def secret_fields(model: type[BaseModel], nested: bool = True) -> list[tuple[str, ...]]:
    """The keys of a model (and with ``nested`` of its sections) that are secrets, each as its path."""
    return [path for path, field in _fields(model, nested) if field.annotation is Secret or Secret in get_args(field.annotation)]


def bind(settings: BaseModel, repo: Path, read: Callable[[Path], Any]) -> None:
    """Tell each secret of the settings how it can be read again: by ``read``, a function of a module, from ``repo``."""
    for path in secret_fields(type(settings)):
        value: Any = settings
        for part in path:
            value = getattr(value, part)
        if isinstance(value, Secret):
            value._reference = (read, str(repo.resolve()), ".".join(path))


class EnvironmentSource(PydanticBaseSettingsSource):
    """The environment without its ``*_FILE`` of secrets, which :class:`SecretSource` reads. Raises ConfigError where it gives roles: each
    user sets their own environment."""

    def __init__(self, settings_cls: type[BaseSettings], environment: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self.environment = environment

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: all come at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """What the environment says."""
        out = self.environment()
        if "access" in out:
            raise ConfigError("TANDEM_ACCESS in the environment: roles can only be set in tandem.yaml (access); unset it")
        for *sections, key in secret_fields(self.settings_cls):
            at: Any = out
            for part in sections:
                at = at.get(part) if isinstance(at, dict) else None
            if isinstance(at, dict):
                at.pop(f"{key}_file", None)
        return out


class SecretSource(PydanticBaseSettingsSource):
    """Secrets from ``*_FILE``, the secrets folder and Vault; see the module. Raises ConfigError for what is named and not to be had."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: all come at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The secrets found, nested."""
        out: dict[str, Any] = {}
        for path in secret_fields(self.settings_cls):
            value = _from_file(path)
            if value is None:
                value = _vault().get(".".join(path))
            if value is not None:
                at = out
                for part in path[:-1]:
                    at = at.setdefault(part, {})
                at[path[-1]] = value
        return out


def _from_file(path: tuple[str, ...]) -> str | None:
    name = "__".join(path)
    variable = f"TANDEM_{name.upper()}_FILE"
    if given := os.environ.get(variable):
        return _content(Path(given), variable)
    if folder := os.environ.get("TANDEM_SECRETS_DIR"):
        if not os.path.isdir(folder):
            raise ConfigError(f"TANDEM_SECRETS_DIR: {folder} is not a folder; correct it")
        for file in (Path(folder) / name, Path(folder) / f"tandem_{name}"):
            if file.exists():
                return _content(file, "TANDEM_SECRETS_DIR")
    return None


def _content(file: Path, variable: str) -> str:
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{variable}: {file} cannot be read ({reason}); correct the path or its permissions") from None


def _vault() -> dict[str, str]:
    place = os.environ.get("TANDEM_VAULT_PATH", "")
    return _from_vault(place, os.environ.get("VAULT_ADDR", ""), os.environ.get("VAULT_TOKEN", "")) if place else {}


@functools.lru_cache(maxsize=4)
def _from_vault(place: str, address: str, token: str) -> dict[str, str]:
    mount, _, path = place.strip("/").partition("/")
    if not path:
        raise ConfigError(f"TANDEM_VAULT_PATH {place!r}: write mount/path of an entry of a KV store (version 2), such as secret/tandem")
    try:
        import hvac
        from hvac.exceptions import VaultError
    except ImportError:
        raise ConfigError("TANDEM_VAULT_PATH needs the package hvac; pip install 'tandem-features[vault]'") from None
    try:
        answer = hvac.Client(timeout=10).secrets.kv.v2.read_secret_version(path=path, mount_point=mount, raise_on_deleted_version=True)
    except (VaultError, OSError) as error:  # requests' errors are OSErrors
        raise ConfigError(
            f"TANDEM_VAULT_PATH {place}: Vault at {masked(address) or 'its default address'} gave nothing ({type(error).__name__});"
            " check VAULT_ADDR, VAULT_TOKEN and the path"
        ) from None
    return {str(key): str(value) for key, value in answer["data"]["data"].items()}


# A password may hold a slash or an @, though it should not; a port and a path are none.
_IN_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^\s/@:]*:(?!\d+/)[^\s\"'<>]*@|[^\s/]*@)", re.IGNORECASE)


def masked(text: str) -> str:
    """A text without the passwords in its URLs (``scheme://user:password@host``) and connection strings (``password=...``)."""
    return without_named_secrets(_IN_URL.sub(r"\g<scheme>***@", text))
