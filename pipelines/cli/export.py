"""``tandem export``: the steps of a repository as a workflow of Airflow, Kubeflow or DVC, its environment for conda, alert rules for
Prometheus and a dashboard for Grafana: files that their user owns."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, Steps, load, quiet, write
from pipelines.lake.data_files import as_the_users, write_text
from transforms.errors import ConfigError

__all__ = ["app", "installed_pins"]

PACKAGE = "tandem-features"
_OBJECT = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
"""A name of Kubernetes."""
DATASOURCE = "tandem-prometheus"
"""The data source that the dashboard is written for; docker/grafana provisions one of this UID."""

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Export workflows, an environment, alert rules and a dashboard for other tools."
)

NameOption = Annotated[str | None, typer.Option(help="Name of the workflow (default: tandem-FOLDER).")]
OutputOption = Annotated[Path | None, typer.Option(help="Output file (default: print to stdout).")]
RetriesOption = Annotated[int, typer.Option(min=0, help="Retries of a failed step.")]
EventsOption = Annotated[bool, typer.Option("--events", help="Start with 'tandem events' (demo.events in tandem.yaml).")]


@app.command()
def airflow(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    output: OutputOption = None,
    name: NameOption = None,
    schedule: Annotated[str, typer.Option(help="Airflow's schedule: a preset or a cron expression.")] = "@daily",
    days: Annotated[
        int | None, typer.Option(min=1, help="Days of feature rows per run (default: as many as from demo.start to demo.end).")
    ] = None,
    events: EventsOption = False,
    retries: RetriesOption = 2,
) -> None:
    """Write an Airflow DAG: batch, apply, materialize, and for each model train, evaluate, promote."""
    values = _values(repo, data, name, events, retries)
    first, last = values["demo_start"], values["demo_end"]
    values["days"] = days or ((last - first).days if first and last else 14)
    if values["days"] <= values["warm_up"]:
        raise typer.BadParameter(
            f"--days {values['days']} leaves nothing to train on after demo.warm_up_days: {values['warm_up']}; give more days"
        )
    values |= {"schedule": schedule, "start": first or datetime(2024, 1, 1, tzinfo=UTC)}
    _write("airflow_dag.py.txt", values, output)


@app.command()
def kubeflow(
    image: Annotated[str, typer.Option(help="Container image of the steps: FROM tandem-train, with the repository in /repo.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    output: OutputOption = None,
    name: NameOption = None,
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim of the data folder (compiling then needs kfp-kubernetes).")] = "",
    settings_secret: Annotated[
        str, typer.Option(metavar="SECRET", help="Secret whose keys are settings (kafka__sasl_password, ...); needs kfp-kubernetes, too.")
    ] = "",
    env_secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SECRET/KEY", help="Environment variable from a key of a Secret; may be repeated. Needs kfp-kubernetes."),
    ] = None,
    events: EventsOption = False,
    retries: RetriesOption = 2,
) -> None:
    """Write a Kubeflow pipeline: batch, apply, materialize, and for each model train, evaluate, promote."""
    if not re.fullmatch(r"[\w./:@-]+", image):
        raise ConfigError(f"--image {image!r} is not an image name; use registry/name:tag or registry/name@sha256:...")
    values = _values(repo, data, name, events, retries)
    dates = {key: f"{values[of]:%Y-%m-%d}" if values[of] else "" for key, of in (("first", "demo_start"), ("last", "demo_end"))}
    for given, option in ((claim, "--claim"), (settings_secret, "--settings-secret")):
        if given and not re.fullmatch(_OBJECT, given):
            raise ConfigError(f"{option} {given!r} is not a name of Kubernetes; use lower-case letters, digits, '-' and '.'")
    values |= {"image": image, "claim": claim, "settings_secret": settings_secret, "env_secrets": _env_secrets(env_secret or []), **dates}
    _write("kubeflow_pipeline.py.txt", values, output)


@app.command()
def dvc(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    output: OutputOption = None,
    events: EventsOption = False,
) -> None:
    """Write dvc.yaml: batch, apply, materialize, and for each model train; with versioned data and dates in params.yaml.

    params.yaml is created next to it if it does not exist.
    """
    from pipelines.lake.provenance import facts

    values = _values(repo, data, None, events, 0)
    loaded = values["loaded"]
    folder = (output or loaded.path / "dvc.yaml").resolve().parent
    if any(" " in str(Path(os.path.relpath(p, folder))) for p in (loaded.path, loaded.data)):
        raise ConfigError(
            f"{loaded.path}: the commands in dvc.yaml run in a shell; use paths without spaces for the repository and its data"
        )

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path, folder)).as_posix()

    def of_definitions(code: dict[str, str]) -> list[str]:
        return [relative(loaded.path / name.removeprefix("repo/")) for name in sorted(code) if name.startswith("repo/")]

    code = facts(loaded)["code"]
    values |= {
        "repo": relative(loaded.path),
        "flags": f" --data {relative(loaded.data)}" if data is not None else "",
        "settings": relative(loaded.path / "tandem.yaml"),
        "definitions": of_definitions(code["value_files"]),
        "code": of_definitions(code["files"]),
        "events_folders": {name: relative(loaded.data / source.files) for name, source in loaded.sources.items() if source.files},
    }
    _write("dvc.yaml.txt", values, output)
    params = folder / "params.yaml"
    if output is not None and not params.exists():
        first = values["demo_start"] or datetime(2024, 1, 1, tzinfo=UTC)
        train = first + timedelta(days=values["warm_up"])
        last = values["demo_end"] or train + timedelta(days=7)
        _write("params.yaml.txt", {k: f"{day:%Y-%m-%d}" for k, day in (("first", first), ("last", last), ("train_start", train))}, params)
        if not (values["demo_start"] and values["demo_end"]):
            Steps().say(f"tandem.yaml has no demo.start and demo.end: the dates in {params} are examples; set them before 'dvc repro'")


@app.command()
def conda(
    output: OutputOption = None,
    name: Annotated[str, typer.Option(help="Name of the environment.")] = "tandem",
    lock: Annotated[
        Path | None, typer.Option(help="Lock file (default: that of this checkout and Python; the installed versions if there is none).")
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hashes/--no-hashes", help="Reference the lock file (pip then checks its hashes), or list the versions.")
    ] = True,
) -> None:
    """Write conda.yaml with the locked versions, for conda, mamba and MLflow's --env-manager conda.

    An installation from a wheel has no lock file: without --lock the versions that are installed are listed.
    """
    from pipelines.lake.provenance import LOCK, engine_root

    found, python, where = lock or engine_root() / LOCK, "{}.{}".format(*sys.version_info), ""
    if lock is None and not found.is_file():
        pins = installed_pins(PACKAGE)
        if not pins:
            raise ConfigError(f"there is no {LOCK} here, and {PACKAGE} is not installed as a package; give --lock FILE")
        Steps().say("this installation has no lock file: listing the installed versions, without hashes (--lock FILE gives one)")
    else:
        pins = _locked_pins(found)
        python = "3.11" if found.name == "requirements.lock" else f"{sys.version_info[0]}.{max(sys.version_info[1], 12)}"
        into = (output or Path("conda.yaml")).resolve().parent
        where = Path(os.path.relpath(found.resolve(), into)).as_posix() if hashes else ""
    pip = next((pin.partition("==")[2] for pin in pins if pin.startswith("pip==")), "")
    _write("conda.yaml.txt", {"name": name, "python": python, "pip": pip, "lock": where, "pins": pins}, output)


@app.command()
def alerts(output: OutputOption = None) -> None:
    """Write Prometheus' alert rules on the metrics of server, stream and jobs. Thresholds are starting points."""
    _put(_template("alerts.yml"), output)


@app.command()
def dashboard(
    output: OutputOption = None,
    datasource: Annotated[str, typer.Option(help="UID of the Prometheus data source in Grafana.")] = DATASOURCE,
) -> None:
    """Write a Grafana dashboard (JSON) over the metrics of server, stream and jobs, to be imported or provisioned."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", datasource):
        raise ConfigError(f"--datasource {datasource!r} is not a UID of Grafana; use letters, digits, '-' and '_', 40 at most")
    _put(_template("dashboard.json").replace(f'"uid": "{DATASOURCE}"', f'"uid": "{datasource}"'), output)


def _locked_pins(lock: Path) -> list[str]:
    try:
        text = lock.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--lock {lock} cannot be read ({error.strerror}); give a requirements.lock of Tandem's checkout") from None
    pins = re.findall(r"^([A-Za-z0-9._-]+(?:\[[\w,-]+\])?==[^\s;\\]+(?: *;[^\\\n]+)?)", text, re.MULTILINE)
    if not pins:
        raise ConfigError(f"--lock {lock} pins nothing; give a requirements.lock of Tandem's checkout")
    return [pin.strip() for pin in pins]


def installed_pins(package: str) -> list[str]:
    """``name==version`` of a package and of all that it needs, as far as it is installed here (extras too); empty where it is not."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    waiting = [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in pins:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        pins[name] = f"{name}=={found.version}"
        for needed in map(Requirement, found.requires or ()):
            extras = ("", *found.metadata.get_all("Provides-Extra", ()))
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed.name)
    return [pins[name] for name in sorted(pins)]


def _env_secrets(given: list[str]) -> dict[str, tuple[str, str]]:
    """Variable -> Secret and key. Raises ConfigError."""
    out = {}
    for text in given:
        if not (found := re.fullmatch(rf"([A-Za-z_]\w*)=({_OBJECT})/([\w.-]+)", text, re.ASCII)):
            raise ConfigError("--env-secret: a value is not NAME=SECRET/KEY; write e.g. REDIS_PASSWORD=shop-redis/password")
        if found[1] in out:
            raise ConfigError(f"--env-secret: {found[1]} is given twice; keep one")
        out[found[1]] = (found[2], found[3])
    return out


def _values(repo: Path, data: Path | None, name: str | None, events: bool, retries: int) -> dict[str, Any]:
    """What both templates want to know of the repository. Raises ConfigError."""
    quiet()
    loaded = load(repo, data, finish=False)
    demo = loaded.settings.demo
    if events and not demo.events:
        raise ConfigError(
            "--events: tandem.yaml has no demo.events; drop --events, or set demo.events to the function that writes event logs"
        )
    models = [loaded.attribute(reference).name for reference in loaded.settings.models]
    called = name or re.sub(r"[^a-z0-9]+", "-", f"tandem-{loaded.path.name}".lower()).strip("-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", called):
        raise ConfigError(f"--name {called!r} is invalid; use letters, digits, '-', '_' and '.'")
    return {
        "name": called, "models": models, "events": events, "retries": retries, "warm_up": demo.warm_up_days, "repo": str(loaded.path),
        "demo_start": demo.start, "demo_end": demo.end, "loaded": loaded,
    }  # fmt: skip


def _write(template: str, values: dict[str, Any], output: Path | None) -> None:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # Python, no HTML
    environment.filters["literal"] = repr
    environment.filters["json"] = json.dumps  # which YAML is
    _put(environment.from_string(_template(template)).render(values), output)


def _template(name: str) -> str:
    return (files("pipelines.cli") / "templates" / name).read_text("utf-8")


def _put(text: str, output: Path | None) -> None:
    if output is None:
        write(text.rstrip("\n"))
        return
    with as_the_users():
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
    Steps().say(f"wrote {output}")
