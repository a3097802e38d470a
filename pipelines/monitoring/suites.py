"""Suites of Great Expectations over a source's events or a run's rows (extra ``[expectations]``).

The library looks at a table in memory; what is kept of a result is counts, never values, which may be people's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.project.mistakes import one_line
from pipelines.project.repository import Repo, load_module
from pipelines.sources.event_files import events, list_files
from transforms.errors import ConfigError, DataError, TandemError
from transforms.instants import now_us

__all__ = ["MOST_ROWS", "Expected", "check_suite", "events_of", "load_suite", "rows_of"]

MOST_ROWS = 1_000_000
"""Of one look: the first, in the order of the files."""


@dataclass(frozen=True)
class Expected:
    """What came of one expectation: its type, what it is about (``column``, bounds), and of how many values (``of``) it does not hold."""

    expectation: str
    about: str
    holds: bool
    unexpected: int | None = None
    of: int | None = None
    problem: str = ""
    examples: str = ""
    """The first unexpected values; for the screen alone."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without values of the data."""
        return {k: v for k, v in asdict(self).items() if k != "examples" and v not in (None, "")}

    def __str__(self) -> str:
        said = f"{self.expectation} {self.about}".strip()
        if self.problem:
            return f"{said}: {self.problem}"
        if self.unexpected is None:
            return f"{said}: {self.examples or 'does not hold'}"
        return f"{said}: {self.unexpected:,} of {self.of:,} values do not" + (f", such as {self.examples}" if self.examples else "")


def load_suite(file: Path) -> Any:
    """The suite of a JSON file as Great Expectations saves it, or of a Python file: its ``suite``, an ExpectationSuite or a function that
    makes one. Raises ConfigError, one line, also where the library is missing or would leave an expectation out."""
    gx, _ = _library()
    if file.suffix == ".py":
        if not file.is_file():
            raise ConfigError(f"--suite {file}: no such file; correct the path")
        try:
            suite = getattr(load_module(file.resolve().parent, file.stem), "suite", None)
            suite = suite() if callable(suite) else suite
        except Exception as error:
            why = str(error) if isinstance(error, TandemError) else one_line(error, file.resolve().parent)
            raise ConfigError(f"--suite {why}") from None
        if not isinstance(suite, gx.ExpectationSuite):
            raise ConfigError(
                f"--suite {file}: its 'suite' is {type(suite).__name__}; make it an ExpectationSuite, or a function that gives one"
            )
        return suite
    try:
        raw = json.loads(file.read_text("utf-8"))
        given = [{**e, "type": e.get("type") or e["expectation_type"]} for e in raw["expectations"]]
        name = raw.get("name") or raw.get("expectation_suite_name") or file.stem
    except OSError as error:
        raise ConfigError(f"--suite {file} cannot be read ({error.strerror}); correct the path") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"--suite {file} is not a Great Expectations suite ({type(error).__name__}: {error}); save one as JSON") from None
    suite = gx.ExpectationSuite(name=name)
    for number, one in enumerate(given):
        one.pop("expectation_type", None)
        try:
            suite.add_expectation(gx.ExpectationSuite(name=name, expectations=[one]).expectations[0])
        except Exception as error:  # pydantic's, or none at all: the library leaves what it does not know out
            why = "Great Expectations does not know it" if isinstance(error, IndexError) else " ".join(str(error).split())
            raise ConfigError(f"--suite {file}: expectation {number} ({one['type']}): {why}") from None
    return suite


def _library() -> tuple[Any, Any]:
    """The library, and a new context of it that keeps nothing."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # it would tell its makers
    try:
        import great_expectations
    except ImportError:
        raise ConfigError("--suite needs the extra 'expectations': pip install 'tandem-features[expectations]'") from None
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return great_expectations, context


def events_of(repo: Repo, source: str) -> pa.Table:
    """The valid events of a source's files, :data:`MOST_ROWS` at most. Raises ConfigError, DataError."""
    found = repo.sources.get(source)
    if found is None:
        raise ConfigError(f"--source {source!r} is none of {', '.join(sorted(repo.sources))}")
    if not found.files or not (repo.data / found.files).is_dir():
        raise DataError(f"source {source!r} has no event files below {repo.data}; make some first")
    ahead = round(repo.settings.batch.max_future_hours * 3.6e9)

    def batches() -> Iterator[pa.RecordBatch]:
        for file in list_files(repo.data, found, None, None, hashes=False):
            for valid, _ in events(file.path, found, now_us(), ahead, name=file.name, partitions=file.partitions):
                yield valid

    return _first(batches(), found.arrow_schema)


def rows_of(data: Path, run: str, group: str) -> pa.Table:
    """The feature rows that a batch run made of a group, :data:`MOST_ROWS` at most. Raises DataError."""
    files = sorted(layout.offline_run(data, group, run).rglob("*.parquet"))
    if not files:
        raise DataError(f"run {run} has no rows of {group!r} in {data}; 'tandem runs show {run}' says what it made")
    schema = pq.read_schema(files[0])
    return _first((b for f in files for b in pq.ParquetFile(f).iter_batches()), schema)


def _first(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    taken, rows = [], 0
    for batch in batches:
        taken.append(batch.slice(0, MOST_ROWS - rows))
        rows += taken[-1].num_rows
        if rows >= MOST_ROWS:
            break
    return pa.Table.from_batches(taken, schema)


def check_suite(suite: Any, table: pa.Table) -> list[Expected]:
    """What comes of each expectation of a suite over a table, in its order."""
    _, context = _library()
    asset = context.data_sources.add_pandas("tandem").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table.to_pandas()})
    return [_expected(one) for one in batch.validate(suite).results]


def _expected(one: Any) -> Expected:
    config, result = one.expectation_config, one.result or {}
    about = {k: v for k, v in config.kwargs.items() if k != "batch_id" and v is not None}
    column = about.pop("column", "")
    more = ", ".join(f"{k}={v!r}" for k, v in sorted(about.items()))
    text = f"{column}{f' ({more})' if more else ''}".strip()
    raised = one.exception_info or {}
    if "exception_message" not in raised:
        raised = next((e for e in raised.values() if isinstance(e, dict)), {})
    problem = str(raised.get("exception_message") or "").splitlines()
    count, of = result.get("unexpected_count"), result.get("element_count")
    shown = result.get("partial_unexpected_list") or []
    observed = result.get("observed_value")
    examples = ", ".join(map(repr, shown[:3])) if count is not None else "" if observed is None else f"found {observed!r}"
    return Expected(config.type, text, bool(one.success), count, of, problem[0] if problem and not one.success else "", examples)
