"""What the pointers and manifests of a store name, fetched into a cache: applied graphs, model versions, the rows of complete runs."""

from __future__ import annotations

from pathlib import Path

from serving.aliases import ALIASES_FILE, read_aliases
from serving.object_store import erasures, manifests, pointers, single_files, trees
from serving.object_store.cache import Cache, cache_of
from serving.request_errors import ModelError
from transforms.data_folder import CURRENT, applied_graph, graphs, models, under_way

__all__ = ["cache_around", "everything", "follow", "rows_here", "rows_of", "serve_from"]


def cache_around(path: Path | str) -> Cache | None:
    """The cache that a file or folder lies in; None for one of a plain folder."""
    return next((found for place in Path(path).parents if (found := cache_of(place)) is not None), None)


def follow(cache: Cache) -> None:
    """Have the applied graphs, and the champion and challenger of each model, as the pointers here name them."""
    place = graphs(cache.folder)
    groups = {path.parent.name for path in place.glob(f"*/{CURRENT}")} | set(under_way(place) or {})
    for group in sorted(groups):
        if (fingerprint := applied_graph(place, group)) is not None:
            trees.fetch(cache, f"graphs/{group}/{fingerprint}")
    for file in sorted(models(cache.folder).glob(f"*/{ALIASES_FILE}")):
        try:
            aliases = read_aliases(file.parent, file.parent.name)
        except ModelError:
            continue  # whoever reads it next says so
        for version in (aliases.champion, aliases.challenger) if aliases is not None else ():
            if version is not None:
                trees.fetch(cache, f"models/{file.parent.name}/{version}")


def rows_of(cache: Cache, group: str, fingerprint: str | None = None) -> set[str]:
    """Have the rows of a group that complete runs made (with this graph, if one is named); the runs' ids."""
    runs = manifests.complete(cache, group, fingerprint)
    return {run_id for run_id in runs if trees.fetch(cache, f"offline/{group}/run={run_id}")}


def everything(cache: Cache) -> None:
    """Have all that was published: of runs what complete ones made. For who looks back over all of it."""
    manifests.refresh(cache)
    complete = {run_id for run_id, entry in cache.look("manifests").items() if entry["status"] == "complete"}
    known = cache.look("trees")
    for tree, version in trees.names(cache).items():
        run_id = tree.rpartition("run=")[2] if tree.startswith("offline/") else ""
        ours = tree.partition("/")[0] in trees.TOPS
        if ours and known.get(tree) != version and (not run_id or run_id in complete):
            trees.fetch(cache, tree, again=tree.startswith("runs/"))


def rows_here(pattern: str, fingerprint: str | None = None) -> set[str] | None:
    """Have the rows that a view's source names, ``<data>/offline/<group>/run=*/...``; the folders of runs that count.

    None for a place in no cache: there what is here is what there is.
    """
    before, found, _ = pattern.partition("/run=*/")
    cache = cache_around(f"{before}/x") if found else None
    if cache is None:
        return None
    group = Path(before).name
    return {f"{before}/run={run_id}" for run_id in rows_of(cache, group, fingerprint)}


def serve_from(models: Path, log: Path | None) -> None:
    """One look of a server: what is applied and who is champion now, and the request log's finished files sent."""
    if (cache := cache_around(models / "x")) is None:
        return
    erasures.follow(cache)
    pointers.refresh(cache)
    follow(cache)
    if log is not None and log.is_dir() and log.is_relative_to(cache.folder):
        single_files.push(cache, log.relative_to(cache.folder).as_posix())
