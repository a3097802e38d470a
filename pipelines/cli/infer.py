"""``tandem infer``: a source's definition, written from its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, Steps, write
from pipelines.lake.counted import counted
from pipelines.lake.data_files import as_the_users
from pipelines.project.config import load_settings
from transforms.errors import DataError, TandemError

__all__ = ["infer"]


def infer(
    what: Annotated[
        str,
        typer.Argument(
            help="A file, folder or topic, or a table as in a definition: Delta('/lake/orders').", metavar="FILE|FOLDER|TOPIC|TABLE"
        ),
    ],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the source (default: that of the file, folder or topic).")] = None,
    sample_size: Annotated[int, typer.Option("--sample-size", min=1, help="Number of records to sample.")] = 20_000,
    event_time: Annotated[
        str | None, typer.Option("--event-time", help="Column with the event time (default: the most likely one).")
    ] = None,
    explode: Annotated[str | None, typer.Option("--explode", help="Path of a list of objects whose elements become events.")] = None,
    zone: Annotated[str | None, typer.Option("--zone", help="Time zone of times without one, e.g. Europe/Paris (default: UTC).")] = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="Encoding of a text file (default: detected, UTF-8 first).")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Record format of a topic: json, avro, protobuf, csv (default: detected).")
    ] = None,
    with_group: Annotated[bool, typer.Option("--with-group", help="Also write a first feature group.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Output file; must not exist yet.")] = None,
) -> None:
    """Generate a source definition from data: names, types, units, time zones, ranges, nulls, event time and lateness.

    The output is valid Python; whatever is uncertain is a QUESTION in a comment. Nothing else is written.
    """
    from pipelines.inference.infer_source import infer_files, infer_table, infer_topic
    from pipelines.inference.table_records import table_named

    if output is not None and output.exists():
        raise DataError(f"{output} already exists; choose another file, or omit --output to print")
    steps, path = Steps(), Path(what)
    if zone is not None:
        _check_zone(zone)
    folder = data or _data_of(repo)
    if (table := table_named(what)) is not None:
        found = infer_table(table, name=name, rows=sample_size, explode=explode, event_time=event_time, zone=zone, group=with_group)
    elif path.exists() or "/" in what:
        found = infer_files(
            path, name=name, rows=sample_size, explode=explode, event_time=event_time, zone=zone, encoding=encoding, group=with_group,
            data=folder, say=steps.say,
        )  # fmt: skip
    else:
        from pipelines.sources.broker import open_broker

        try:
            settings = load_settings(repo)
        except TandemError as error:
            raise DataError(f"{what} is not a file or folder, and {repo} has no Kafka settings for a topic: {error}") from None
        try:
            reader = open_broker(settings.kafka, folder or settings.data).open_reader()
        except TandemError as error:
            raise DataError(f"{what} is not a file or folder, and cannot be read as a topic: {error}") from error
        try:
            found = infer_topic(
                reader, what, name=name, rows=sample_size, explode=explode, event_time=event_time, zone=zone, group=with_group,
                kafka=settings.kafka, form=form,
            )  # fmt: skip
        finally:
            reader.close()
    questions = found.text.count("QUESTION")
    steps.say(
        f"{found.name}: {counted(found.proposal.columns, 'field')}, event time {found.proposal.event_time.name}, "
        + counted(questions, "question")
    )
    if table is None and path.exists() and (folder is None or not path.resolve().is_relative_to((folder / found.files).resolve())):
        place = "the data folder" if folder is None else f"the data folder, {folder}"
        steps.say(f"the definition expects its files in {found.files} of {place}: move or link them there, or change data in tandem.yaml")
    if output is None:
        write(found.text)
        return
    with as_the_users():
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(found.text, "utf-8")
    steps.say(f"written to {output}")


def _data_of(repo: Path) -> Path | None:
    try:
        return load_settings(repo).data
    except TandemError:
        return None


def _check_zone(zone: str) -> None:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise DataError(f"--zone {zone} is not an IANA time zone; use a name such as Europe/Paris") from None
