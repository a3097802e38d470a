"""``tandem apply``: one at a time, and all or nothing, whatever is killed when.

The graphs that are applied stand in three places: ``graphs/<group>/CURRENT``, Feast's registry, and the online store. An apply first
writes its intent, ``graphs/APPLYING.json``, by one rename; from then on that file is what everybody reads
(:func:`transforms.data_folder.applied_graph`), for all groups at once, and it goes when the three agree with it. So an apply that is
killed before the rename did nothing, and one killed after it is done: whatever reads the other two places calls :func:`finish` first,
which every command does that works with features (``pipelines.cli.console.load``). One that is refused, by the definitions, the registry
or the online store, takes its intent back: nothing was applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.feature_store.put_back import HalfApplied
from pipelines.feature_store.store import apply as feast_apply
from pipelines.feature_store.store import registry_file, registry_in
from pipelines.lake import graphs, shared
from pipelines.project.repository import Repo
from transforms.errors import StoreError
from transforms.locks import lock

__all__ = ["apply_fingerprints", "finish", "locked"]

LOCK = ".apply.lock"


def locked(repo: Repo, say: Callable[[str], None] = lambda line: None, beat: Callable[[], None] | None = None) -> Any:
    """For the body: no apply is at work, and whoever writes the registry by this lock does so alone. ``beat``: see ``locks.lock``."""
    busy = "another 'tandem apply' is running here; waiting for it"
    return shared.alone(repo.data, graphs.folder(repo.data) / LOCK, lambda: say(busy), beat)


def apply_fingerprints(
    repo: Repo, choose: Callable[[], Mapping[str, str]], say: Callable[[str], None] = lambda line: None, take_over: bool = False
) -> dict[str, str]:
    """Apply the graphs (group -> fingerprint) that ``choose``, called under the lock, checks and gives; what it raises changes nothing.
    ``take_over``: also where another data folder writes this project's rows of the online store now.

    Raises StoreError, ConfigError, DefinitionError for definitions, a registry or a store that refuse them: then all is as it was. Only
    after a HalfApplied does the next apply, or :func:`finish`, complete this one.
    """
    with locked(repo, say):
        # Of one that was killed, which need not be completed first: perhaps the files as they are now do not even fit it.
        before = graphs.applying(repo.data)
        _point(repo, before)
        fingerprints = dict(choose())
        graphs.begin_apply(repo.data, fingerprints)
        try:
            _bring(repo, fingerprints, take_over)
        except HalfApplied:
            raise
        except Exception:
            graphs.end_apply(repo.data) if before is None else graphs.begin_apply(repo.data, before)
            raise
        _end(repo, fingerprints)
    return fingerprints


def finish(repo: Repo, say: Callable[[str], None] = lambda line: None, beat: Callable[[], None] | None = None) -> None:
    """Complete an apply that was killed; harmless and cheap where there is none. Raises as :func:`apply_fingerprints`. ``beat`` is called
    while it waits for one that is at work; what it raises ends that."""
    if graphs.applying(repo.data) is None:
        _bring_along(repo, say, beat)
        return
    try:
        with locked(repo, say, beat):
            if (intent := graphs.applying(repo.data)) is not None:
                say("an apply was interrupted; completing it")
                _bring(repo, intent)
                _end(repo, intent)
    except OSError as error:
        where = error.filename or graphs.folder(repo.data)
        raise StoreError(f"an apply was interrupted and could not be completed ({where}: {error.strerror}); run 'tandem apply'") from None


_REGISTRIES = "registries"


def _bring_along(repo: Repo, say: Callable[[str], None], beat: Callable[[], None] | None) -> None:
    """Where the data folder is a cache of an object store, another machine may have applied what this one's registry and online store do
    not know yet."""
    known = shared.kept(repo.data, _REGISTRIES)
    applied = graphs.applied_graphs(repo.data)
    if known is None or not applied or known.get(str(repo.path)) == applied:
        return
    with lock(graphs.folder(repo.data) / LOCK, beat=beat):
        say("graphs were applied on another machine; the registry and online store of this one follow")
        feast_apply(repo, applied)
        shared.keep(repo.data, _REGISTRIES, str(repo.path), applied)


def _point(repo: Repo, intent: Mapping[str, str] | None) -> None:
    """Write each group's pointer as an apply has it, if there is one."""
    for group, fingerprint in (intent or {}).items():
        graphs.apply_graph(repo.data, group, fingerprint)


def _bring(repo: Repo, intent: Mapping[str, str], take_over: bool = False) -> None:
    """Registry and online store follow the intent, while that is what everybody reads."""
    _set_aside_a_torn_registry(repo)
    feast_apply(repo, intent, take_over)


def _end(repo: Repo, intent: Mapping[str, str]) -> None:
    _point(repo, intent)
    graphs.end_apply(repo.data)
    shared.keep(repo.data, _REGISTRIES, str(repo.path), graphs.applied_graphs(repo.data))


def _set_aside_a_torn_registry(repo: Repo) -> None:
    """What a kill left in part is no registry: the apply makes it anew, whole."""
    place = registry_file(repo.path)
    if place is not None and place.is_file() and registry_in(place) is None:
        place.replace(place.with_name(f"{place.name}.damaged"))
