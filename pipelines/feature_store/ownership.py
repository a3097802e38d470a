"""One data folder writes the rows of a project: the online store has a mark of whose they are, which its first writer leaves.

Two that write the same project replace each other's rows, and each is right by its own runs: no comparison of rows can tell. So the mark
is looked at by every write, in its own step, once the store knows for whom it writes (its ``writer``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.lake.folder_identity import FolderIdentity, identity_of
from pipelines.project.repository import Repo
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from serving.online_store.base import OrderedOnlineStore

__all__ = ["check_rows", "claim_rows"]


def check_rows(repo: Repo, online: OrderedOnlineStore, config: Any) -> None:
    """Raises ConfigError where the rows of this project are those of another data folder; StoreError, DataError. Claims nothing."""
    owner = online.owner(config)
    if owner is not None:
        _refuse_other(online, config, identity_of(repo.data), owner)


def claim_rows(repo: Repo, online: OrderedOnlineStore, config: Any, take: bool = False) -> None:
    """Have the rows of this project be those of this data folder, from now on or again. Raises ConfigError where they are another's, unless
    that is to be taken over (``take``); StoreError, DataError. What ``online`` writes is refused once they are another's."""
    mine = identity_of(repo.data)
    _refuse_other(online, config, mine, online.claim(config, mine, take))
    online.writer = mine


def _refuse_other(online: OrderedOnlineStore, config: Any, mine: FolderIdentity, found: str) -> None:
    owner = FolderIdentity(found)
    if owner.name != mine.name:
        raise ConfigError(
            f"online store {type(online).__name__}: the rows of project {config.project!r} are written from another data folder"
            f" ({owner.place}), and this is {mine.place}: each would replace the other's; name another project, or another store, in"
            " feature_store.yaml, or run 'tandem apply --take-over' if that folder writes no more"
        )
