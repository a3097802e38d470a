"""An apply that is refused changes nothing: what Feast's registry and the online store had before is put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lake.data_files import write_bytes
from transforms.errors import StoreError

if TYPE_CHECKING:
    from feast import RepoConfig

    from serving.online_store.base import Covered, OrderedOnlineStore

__all__ = ["HalfApplied", "unchanged_on_failure"]


class HalfApplied(StoreError):
    """An apply failed after it had changed a part, which could not be put back: it stays under way until it is completed."""


@contextmanager
def unchanged_on_failure(
    registry: Path | None, online: OrderedOnlineStore | None, config: RepoConfig, views: Iterable[str], whole_registry: bool, mine: str
) -> Iterator[None]:
    """What the body raises leaves the registry's file, and what the online store knows of the views and of their owner, as they were.

    ``registry``: that file, None where the registry is none; ``whole_registry``: another kind takes back by itself what the body did;
    ``mine``: the owner as whom the body claims the rows. The store is asked first, so one that cannot be reached refuses before anything is
    changed. A view that it knew nothing of keeps what the body said of it: nobody has its rows yet. Raises what the body raised;
    HalfApplied where a part could not be put back.
    """
    kept = registry.read_bytes() if registry is not None and registry.is_file() else None
    owner = None if online is None else online.owner(config)
    known = {} if online is None else {view: (online.applied_fingerprint(config, view), online.covered(config, view)) for view in views}
    try:
        yield
    except Exception as error:
        try:
            if registry is not None:
                _restore(registry, kept)
            elif not whole_registry:
                raise StoreError("Feast's registry is neither a file nor a database")
            if online is not None:
                found = online.owner(config)
                if found in (None, owner, mine):  # else somebody took the rows over meanwhile: what is said of the views is his
                    _put_views_back(online, config, known)
                if mine != owner and found == mine:
                    _put_mark_back(online, config, owner, mine)
        except Exception as also:
            raise HalfApplied(
                f"{error}; a part was applied and could not be undone ({also}): fix that, then run 'tandem apply' again"
            ) from error
        raise


def _put_views_back(online: OrderedOnlineStore, config: RepoConfig, known: Mapping[str, tuple[str | None, Covered | None]]) -> None:
    """While the mark is as the body left it, so as nobody: what is put back may be another's, whose the mark will say that it is."""
    writer, online.writer = online.writer, None
    try:
        for view, (fingerprint, covered) in known.items():
            if fingerprint is None or online.applied_fingerprint(config, view) == fingerprint:
                continue
            online.apply_fingerprint(config, view, fingerprint)
            if covered is not None:
                online.cover(config, view, covered)
    finally:
        online.writer = writer  # whoever uses the store on is asked as before


def _put_mark_back(online: OrderedOnlineStore, config: RepoConfig, before: str | None, mine: str) -> None:
    """Of whose rows these are, last: from then on the one of before may write, by what was said of the views for him."""
    if before is None:
        online.disclaim(config, mine)
    else:
        online.claim(config, before, take=True)


def _restore(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    elif not file.is_file() or file.read_bytes() != content:
        write_bytes(file, content, durable=True)
