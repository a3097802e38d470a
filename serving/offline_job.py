"""What Feast's offline store gives: a retrieval that runs when asked for its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from serving.spines import to_pandas
from transforms.errors import StoreError

__all__ = ["AsofJob"]


class AsofJob(RetrievalJob):
    """A retrieval that runs when asked for its result."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        given: pd.DataFrame | None = None,
    ) -> None:
        """``given`` is the spine, where it was a DataFrame: its columns are the first of the table that ``run`` gives, in their order."""
        self._run, self._metadata, self._full, self._given = run, metadata, full_feature_names, given

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return to_pandas(self._run(), self._given)

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """Columns of the spine come back as they were given, but for its time; an int64 that floats could not hold is pandas' Int64."""
        return to_pandas(self.to_arrow(validation_reference=validation_reference, timeout=timeout), self._given)

    @property
    def full_feature_names(self) -> bool:
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as one Parquet file."""
        source = storage.to_data_source()
        if not isinstance(source, FileSource):
            raise StoreError(f"saved dataset: {type(source).__name__} is not a FileSource; this store only writes Parquet files")
        path = Path(source.path)
        if path.exists() and not allow_overwrite:
            raise StoreError(f"saved dataset: {path} already exists; choose another path or allow_overwrite=True")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self._run(), path)
