"""Analysis by workers: each share of a group's rows is accumulated wherever there is one, and the driver has the accumulators alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from pipelines.batch.analysis import adapter_config, to_tft_batch, wrap_preprocessing_fn
from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.first_tensorflow import first_tensorflow
from pipelines.batch.learning import Arrived, Asked, Phases, accumulate, sent
from pipelines.batch.row_shares import RowRange, batches_of
from pipelines.batch.work_place import WorkPlace
from pipelines.lake.data_files import replaced
from pipelines.lake.file_addresses import opening, reading, writing
from transforms.tensorflow_settings import settle_tensorflow

__all__ = ["LearnShare", "Workers", "row_batches"]

settle_tensorflow()  # what a worker unpickles of a step below is TF-Transform's, which imports TensorFlow before the step's own setup


class LearnShare(beam.DoFn):
    """(group, number of the share, its rows) -> what each fold makes of it, a file each below ``target``; emits nothing."""

    def __init__(self, asked: Mapping[str, Asked], target: str) -> None:
        self.asked, self.target = dict(asked), target
        self.phases: dict[str, Phases] = {}

    def setup(self) -> None:
        """TensorFlow, and a folder for what its functions need."""
        first_tensorflow()
        self.phases, self.folder = {}, tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True)

    def teardown(self) -> None:
        """Without it."""
        self.phases = {}
        self.folder.cleanup()

    def process(self, share: tuple[str, int, list[RowRange]]) -> None:
        """Accumulate one share."""
        name, number, rows = share
        asked = self.asked[name]
        if name not in self.phases:
            function = wrap_preprocessing_fn(asked.function, asked.inputs, asked.what)
            self.phases[name] = Phases(function, adapter_config(asked.inputs), Path(self.folder.name) / name)
        for i, found in enumerate(accumulate(self.phases[name], asked.folds, row_batches(rows, asked.inputs))):
            with writing(_place(self.target, name, i, number)) as path, replaced(path) as out:
                out.write(sent(found))


def row_batches(rows: Sequence[RowRange], inputs: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of some rows for TF-Transform, wherever their files are."""
    for one in rows:
        with reading(one.file) if one.whole else opening(one.file) as source:  # of an object that is cut, only what is read comes here
            for batch in batches_of(source, one, inputs.names):
                yield to_tft_batch(batch, inputs)


def _place(top: str, group: str, fold: int, share: int) -> str:
    return f"{top}/{group}/{fold:04d}/share-{share:06d}"


class Workers:
    """The workers of an engine, for the analysis of a run whose files lie at ``place``."""

    def __init__(self, engine: BatchEngine, place: WorkPlace) -> None:
        self.engine, self.place, self.rounds = engine, place, 0

    def accumulated(self, asked: Mapping[str, Asked], shares: Mapping[str, Sequence[Sequence[RowRange]]]) -> dict[str, list[Arrived]]:
        """Answers to what is asked of groups whose rows are in ``shares``: for each fold the shares' accumulators."""
        self.rounds += 1
        name = f"learn/{self.rounds}"
        folder, top = self.place.folder, f"{self.place.top}/{name}"
        all_shares = [(g, n, self._there(rows)) for g in asked for n, rows in enumerate(shares[g])]
        with self.engine.pipeline(self.place.run.folder) as pipeline:
            _ = (
                pipeline
                | "Shares of rows" >> beam.Create(all_shares)
                | "Spread shares" >> beam.Reshuffle()
                | "Learn" >> beam.ParDo(LearnShare(asked, top))
            )
        self.place.bring((name,), ())

        def answer(group: str, fold: int) -> Arrived:
            return Arrived([Path(_place(str(folder / name), group, fold, n)).read_bytes for n in range(len(shares[group]))])

        return {g: [answer(g, i) for i in range(len(one.folds))] for g, one in asked.items()}

    def _there(self, rows: Sequence[RowRange]) -> list[RowRange]:
        """Where the workers find them."""
        return [replace(one, file=file) for one, file in zip(rows, self.place.files([one.file for one in rows]), strict=True)]
