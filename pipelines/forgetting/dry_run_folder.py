"""Where a dry run of an erasure has its copies of what it would change: in the data folder, on whose disk there is room for data."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transforms.errors import DataError

__all__ = ["DRY_RUN", "drop_dry_runs", "dry_run_folder"]

DRY_RUN = ".dry-run-"
"""What the names of these folders begin with: no file in them is one of the data folder's."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def dry_run_folder(data: Path) -> Iterator[Path]:
    """A folder of one's own, gone afterwards; where the data folder may only be read, one for temporary files (``TMPDIR``). Raises
    DataError where the body finds no room."""
    place = str(data) if os.access(data, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix=DRY_RUN, ignore_cleanup_errors=True) as folder:  # only this user may look into it
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise DataError(
                f"--dry-run has no room for its copies in {Path(folder).parent} ({os.strerror(error.errno)}): it takes the largest file"
                " once, what a killed stream left open, and an online store in a SQLite file twice; make room there"
            ) from None


def drop_dry_runs(data: Path) -> None:
    """Take away what dry runs that were killed left, for an erasure to leave nothing; one that is at work fails of it."""
    for left in data.glob(f"{DRY_RUN}*"):
        shutil.rmtree(left, ignore_errors=True)
