"""Which data folder this is, so that others can tell whose rows are whose: an identity that it is given once and keeps where it is moved.

That of an object store is its URL, for all machines that work with it.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path

from pipelines.lake.data_files import write_json
from pipelines.lake.layout import identity_file
from serving.object_store.cache import cache_of
from transforms.errors import DataError
from transforms.locks import lock

__all__ = ["FolderIdentity", "identity_of"]


class FolderIdentity(str):
    """``<identity> <place>``; what is equal to another's is the ``name`` alone, as folders are moved."""

    @property
    def name(self) -> str:
        return self.split(" ", 1)[0]

    @property
    def place(self) -> str:
        return self.split(" ", 1)[-1]


def identity_of(data: Path) -> FolderIdentity:
    """The identity of a data folder, made where it has none. A copy gets one of its own as long as the folder that it was copied from is
    there: one that was copied to another machine, to a place of the same path, cannot be told from it. Raises DataError."""
    if (cache := cache_of(data)) is not None:
        return FolderIdentity(f"{cache.url} {cache.url}")
    place, file = os.path.realpath(data), identity_file(data)
    known = _read(file)
    if known is None or known["place"] != place:
        try:
            with lock(file.with_name(f"{file.name}.lock")):
                known = _read(file)
                if known is None or known["place"] != place:
                    name = uuid.uuid4().hex if known is None or _is_copied(file, known) else known["id"]
                    known = {"id": name, "place": place}
                    write_json(file, known, durable=True)
        except OSError as error:
            raise DataError(f"{file} cannot be written ({error.strerror}); let this user write to the data folder") from None
    return FolderIdentity(f"{known['id']} {os.fsencode(place).decode('utf-8', 'backslashreplace')}")


def _read(file: Path) -> dict[str, str] | None:
    """``id`` and ``place`` as a file has them; None where there is none. Raises DataError: a damaged one is no reason for a new identity,
    by which the folder's own rows would be another's."""
    try:
        found = json.loads(file.read_bytes())
        known = {"id": found["id"], "place": found["place"]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); let this user read it") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        known = {}
    if not all(isinstance(value, str) for value in known.values()) or not re.fullmatch(r"[!-~]+", known.get("id", "")):
        raise DataError(
            f"{file} is damaged: it says which data folder this is; restore it, or delete it and run 'tandem apply --take-over', as the"
            " folder is a new one then"
        )
    return known


def _is_copied(file: Path, known: dict[str, str]) -> bool:
    """Whether the folder that was here named in the file is another one, which is still there."""
    before = identity_file(Path(known["place"]))
    try:
        there = _read(before)
        return there is not None and there["id"] == known["id"] and not before.samefile(file)
    except DataError:
        return True  # something is there; that it is this one cannot be shown
