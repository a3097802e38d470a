"""``tandem keys``: the API keys of the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, load, settings_of, write
from pipelines.lake import layout
from pipelines.project.config import parse_duration
from pipelines.project.mistakes import one_line
from transforms.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Create, list and remove API keys of the server.")

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _file(repo: Path, data: Path | None) -> Path:
    settings = settings_of(repo, data)
    named = settings.serve.get("keys") or layout.api_keys(settings.data)
    if not isinstance(named, str | Path):
        raise ConfigError(f"serve.keys {named!r} is not a path; correct it or remove the setting")
    return repo.resolve() / named


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Owner of the key, as shown in the request log and the metrics.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Permission: model:NAME, view:NAME (* for all) or admin (repeatable; default: all models and views)."),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Validity, such as 30d or 12h (default: never expires).")] = None,
    as_json: _Json = False,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
) -> None:
    """Create a key and print it. It is shown only once: only its hash is stored."""
    from serving.api_keys import add_key

    now = datetime.now(UTC)
    try:
        until = now + parse_duration(expires) if expires else None
    except ValueError as error:
        raise ConfigError(f"--expires: {error}") from None
    file = _file(repo, data)
    first = not file.exists()
    key = add_key(file, name, scope or ["model:*", "view:*"], now, until)
    if as_json:
        write(json.dumps({"name": name, "key": key, "file": str(file)}))
        return
    write(key)
    for line in _unknown(repo, data, scope or []):
        typer.echo(line, err=True)
    typer.echo(f"Send it as 'Authorization: Bearer ...'. It cannot be shown again: {file} stores only its hash.", err=True)
    if first:
        typer.echo("This is the first key: servers require a key from their next start on.", err=True)


def _unknown(repo: Path, data: Path | None, scopes: list[str]) -> list[str]:
    """Scopes of what the repository does not define: a slip, or of what is to come."""
    if not any(s.partition(":")[2] not in ("", "*") for s in scopes):
        return []
    try:
        loaded = load(repo, data, finish=False)
        known = {"view": set(loaded.groups), "model": {loaded.attribute(m).name for m in loaded.settings.models}}
    except Exception as error:  # the key is made, and good for what there is when it is used
        return [f"The scopes were not checked against the repository: {one_line(error)}"]
    out = []
    for scope in scopes:
        kind, _, name = scope.partition(":")
        if name not in ("", "*") and name not in known[kind]:
            has = ", ".join(sorted(known[kind])) or "none"
            out.append(
                f"{scope}: the repository has no {kind} of that name (it has {has}); if it is a typo, remove the key and create another"
            )
    return out


@app.command("list")
def list_keys(as_json: _Json = False, repo: RepoOption = DEFAULT_REPO, data: DataOption = None) -> None:
    """List the keys (without their secrets)."""
    from serving.api_keys import read_keys

    now = datetime.now(UTC)
    keys = read_keys(_file(repo, data))
    if as_json:
        shown = [{"id": k.id, "name": k.name, "scopes": k.scopes, "created": k.created, "expires": k.expires or None} for k in keys]
        write(json.dumps(shown))
        return
    for key in keys:
        end = f"expired {key.expires}" if key.expired(now) else f"until {key.expires}" if key.expires else "forever"
        write(f"{key.id}  {key.name}  {' '.join(key.scopes)}  created {key.created}, valid {end}")
    if not keys:
        write("no keys; create one with 'tandem keys add NAME'")


@app.command()
def remove(
    which: Annotated[str, typer.Argument(help="Id of a key, or a name (removes all keys of that name).")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
) -> None:
    """Remove a key; running servers refuse it within a second."""
    from serving.api_keys import remove_keys

    for key in remove_keys(_file(repo, data), which):
        write(f"removed {key.id} of {key.name}")
