"""A second report on a window of answers, by Evidently (extra ``[evidently]``): drift against the training set, and what columns hold."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.monitoring.baseline import PREDICTION, ROWS, Baseline
from pipelines.monitoring.statistics import thinned
from transforms.errors import ConfigError

__all__ = ["FILES", "library", "write_evidently"]

FILES = ("evidently.html", "evidently.json")


def library() -> Any:
    """Evidently. Raises ConfigError, one line, where it is not installed."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # it would tell its makers
    try:
        import evidently
    except ImportError:
        raise ConfigError("--evidently needs the extra 'evidently': pip install 'tandem-features[evidently]'") from None
    return evidently


def write_evidently(base: Baseline, served: pa.Table, folder: Path) -> list[Path]:
    """Write :data:`FILES` into ``folder``: ``served`` (answers of a version) against ``base`` (its training set), of each a sample of at
    most ``ROWS`` rows, by the model's inputs and its prediction. Returns the paths."""
    evidently = library()
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    names = [n for n, _ in base.spec.inputs if n in served.schema.names and n in base.table.schema.names]
    names += [PREDICTION] if PREDICTION in served.schema.names and PREDICTION in base.table.schema.names else []
    now, trained = (_plain(thinned(table, ROWS).select(names)) for table in (served, base.table))
    # A column without values has no distribution to compare, and the library fails on it.
    names = [n for n in names if now[n].notna().any() and trained[n].notna().any()]
    numbers = [
        n for n in names if pa.types.is_floating(base.table.schema.field(n).type) or pa.types.is_integer(base.table.schema.field(n).type)
    ]
    kinds = evidently.DataDefinition(numerical_columns=numbers, categorical_columns=[n for n in names if n not in numbers])
    current, reference = (evidently.Dataset.from_pandas(frame[names], data_definition=kinds) for frame in (now, trained))
    snapshot = evidently.Report([DataDriftPreset(), DataSummaryPreset()]).run(current, reference)
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers_file = (folder / name for name in FILES)
    snapshot.save_html(str(page))
    snapshot.save_json(str(numbers_file))
    return [page, numbers_file]


def _plain(table: pa.Table) -> Any:
    """For pandas: texts, truth values and lists as texts, which is what a category is.

    They are escaped: the library writes them into a script of its page as they are, and some are what callers sent. ``</script>`` would
    end that script and begin one of theirs.
    """
    columns = {}
    for name, column in zip(table.column_names, table.columns):
        if not _is_number(column.type):
            column = pa.array([None if v is None else escape(str(v), quote=False) for v in column.to_pylist()], pa.string())
        columns[name] = column
    return pa.table(columns).to_pandas()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
