"""What a trained model is compared with before it is pushed: the champion, if it reads the same inputs, else the latest blessed model."""

# TFX declares its classes at run time or not at all.
# mypy: disable-error-code="no-untyped-call,misc,attr-defined"
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy

from serving.aliases import read_aliases
from serving.request_errors import ModelError

__all__ = ["ChampionStrategy", "champion_folder"]


def champion_folder(base: Path) -> str:
    """The folder of the champion in ``base`` (``data/models/<name>``); empty if there is none, or its alias cannot be read."""
    try:
        aliases = read_aliases(base, base.name)
    except ModelError:
        return ""
    return str(base / str(aliases.champion)) if aliases is not None and aliases.champion is not None else ""


class ChampionStrategy(LatestBlessedModelStrategy):
    """Resolves the model that was pushed to ``champion``; the latest blessed one if that was not trained in this pipeline (it reads other
    inputs then, or its graphs are not applied any more) or ML Metadata does not know it."""

    def __init__(self, champion: str = "") -> None:
        self._champion = champion

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> Any:
        """See TFX's ``ResolverStrategy``."""
        if self._champion:
            chosen = _pushed_from(store, self._champion, (m.id for m in input_dict["model"]))
            if chosen is not None:
                input_dict = {**input_dict, "model": [m for m in input_dict["model"] if m.id == chosen]}
        return super().resolve_artifacts(store, input_dict)


def _pushed_from(store: Any, folder: str, models: Iterable[int]) -> int | None:
    """Which of the model artifacts was pushed to ``folder``: the input of the execution whose output names it."""
    known = set(models)
    pushed = [a.id for a in store.get_artifacts_by_type("PushedModel") if a.custom_properties["pushed_destination"].string_value == folder]
    if not pushed:
        return None
    inputs = metadata_store_pb2.Event.INPUT
    made = {e.execution_id for e in store.get_events_by_artifact_ids(pushed) if e.type != inputs}
    read = store.get_events_by_execution_ids(sorted(made)) if made else []
    return max((e.artifact_id for e in read if e.type == inputs and e.artifact_id in known), default=None)
