"""An object store by its URL. Credentials come by the cloud's own chain: environment, profile, the machine's identity; never by us."""

from __future__ import annotations

import configparser
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from serving.object_store.object_store import ObjectStore
from transforms.errors import ConfigError

__all__ = ["SCHEMES", "connect", "is_url", "normal"]

SCHEMES = {"s3": "bucket", "gs": "bucket", "az": "container"}
_URL = re.compile(r"([a-z][a-z0-9+.-]*):/{1,2}([^/].*)?", re.DOTALL)


def is_url(text: str) -> bool:
    """Whether it names a place by a scheme, and no folder."""
    return _URL.fullmatch(text) is not None


def normal(url: str) -> str:
    """The URL as it is compared and kept: ``s3://bucket/a/prefix``. Raises ConfigError, one line."""
    found = _URL.fullmatch(url)
    scheme = found[1] if found else ""
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://{kind}/prefix" for s, kind in SCHEMES.items())
        raise ConfigError(f"data: {_shown(url)!r} is not a valid data location; use a folder, or one of {known}")
    bucket, _, prefix = (found[2] or "" if found else "").partition("/")
    if not bucket or re.search(r"[@?#:\s]", bucket) or re.search(r"[?#]", prefix):
        raise ConfigError(
            f"data: {_shown(url)!r} must be {scheme}://{SCHEMES[scheme]}/prefix; keys and options are given as the cloud's tools want"
        )
    parts = [p for p in prefix.split("/") if p]
    if any(p in (".", "..") for p in parts):
        raise ConfigError(f"data: {_shown(url)!r} has a part . or ..; write the prefix itself")
    return "/".join([f"{scheme}://{bucket}", *parts])


def _shown(url: str) -> str:
    """Without what may be a secret."""
    return re.sub(r"//[^/@]*@", "//***@", url.partition("?")[0])[:200]


@lru_cache(8)
def connect(url: str) -> ObjectStore:
    """The store at ``url`` (see ``normal``). Asks nothing of it yet. Raises ConfigError: no such scheme, or a package that is missing."""
    url = normal(url)
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    try:
        return _google(url, bucket, prefix) if scheme == "gs" else _blobs(url, scheme, bucket, prefix)
    except ModuleNotFoundError as error:
        raise ConfigError(f"data: {url} needs the package {error.name}; pip install 'tandem-features[cloud]'") from None


def _google(url: str, bucket: str, prefix: str) -> ObjectStore:
    from serving.object_store.google_store import GoogleStore

    return GoogleStore(url, bucket, prefix)


def _blobs(url: str, scheme: str, bucket: str, prefix: str) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, S3Store

    from serving.object_store.blobs import CLIENT, RETRIES, Blobs

    client: dict[str, Any] = {**CLIENT, "allow_http": True}
    try:
        if scheme == "az":
            given = _azure()
            return Blobs(url, AzureStore(bucket, client_options=client, retry_config=RETRIES, **given), prefix)  # type: ignore[arg-type]
        return Blobs(url, S3Store(bucket, client_options=client, retry_config=RETRIES, **_aws()), prefix)  # type: ignore[arg-type]
    except BaseError as error:
        raise ConfigError(f"{url}: {' '.join(str(error).split()).partition('Debug source')[0][:200]}") from None


def _aws() -> dict[str, Any]:
    """What obstore does not look for itself: the profile of the AWS tools, and their newer names."""
    env = os.environ
    out: dict[str, Any] = {}
    profile = {} if env.get("AWS_ACCESS_KEY_ID") and not env.get("AWS_PROFILE") else _profile()
    if profile.get("aws_access_key_id"):
        out |= {"access_key_id": profile["aws_access_key_id"], "secret_access_key": profile.get("aws_secret_access_key", "")}
        if profile.get("aws_session_token"):
            out["session_token"] = profile["aws_session_token"]
    elif profile and not env.get("AWS_ACCESS_KEY_ID") and (provider := _boto3()) is not None:
        out["credential_provider"] = provider  # single sign-on, roles: what only AWS's own library knows
    if endpoint := env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or profile.get("endpoint_url"):
        out["endpoint"] = endpoint
    out["region"] = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or profile.get("region") or "us-east-1"
    return out


def _boto3() -> Any:
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except Exception:  # not installed, or without credentials: then obstore's own chain is asked
        return None


def _profile() -> dict[str, str]:
    """The chosen profile of ``~/.aws/config`` and ``~/.aws/credentials``; empty if there is none. Raises ConfigError for a named one."""
    env, home = os.environ, Path.home() / ".aws"
    name = env.get("AWS_PROFILE") or "default"
    out: dict[str, str] = {}
    for file, section in (
        (env.get("AWS_CONFIG_FILE") or home / "config", name if name == "default" else f"profile {name}"),
        (env.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError):
            raise ConfigError(f"{file} cannot be read; correct it, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
        if parser.has_section(section):
            out |= dict(parser.items(section))
    if not out and env.get("AWS_PROFILE"):
        raise ConfigError(f"AWS_PROFILE {name!r}: there is no such profile in ~/.aws/config or ~/.aws/credentials; correct it")
    return out


def _azure() -> dict[str, Any]:
    """What a connection string says, which obstore does not read."""
    out: dict[str, Any] = {}
    if text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""):
        said = dict(part.split("=", 1) for part in text.strip().split(";") if "=" in part)
        out = {
            name: said[key]
            for key, name in (("AccountName", "account_name"), ("AccountKey", "account_key"), ("BlobEndpoint", "endpoint"))
            if said.get(key)
        }
    if endpoint := os.environ.get("AZURE_STORAGE_ENDPOINT"):
        out["endpoint"] = endpoint
    return out
