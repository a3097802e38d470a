"""The one call that ends a feature repository's definitions: what stock ``feast apply`` finds there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.project.config import data_for_feast, load_settings
from transforms.definitions import FeatureGroup
from transforms.errors import DefinitionError

if TYPE_CHECKING:
    from serving.feast_objects import FeastObjects

__all__ = ["feast_views"]


def feast_views(module: str) -> FeastObjects:
    """Gives Feast the feature groups that ``module`` defines or imports: written as ``feast_views(__name__)``, after the groups.

    Feast looks for its objects among a module's names. So for each group the module gets a view and its source, and for each key field an
    entity, under the names ``view_<group>``, ``source_<group>_rows`` and ``entity_<key>``. The data folder, with the applied graphs, is
    that of ``tandem.yaml`` beside the module. Returns the objects; their ``features()`` is what a ``FeatureService`` takes.

    Raises DefinitionError where the module has no group, or something else under one of those names.
    """
    here = sys.modules[module]
    if not here.__file__:
        raise DefinitionError(f"feast_views({module!r}): the module is no file; call it at the end of a file: feast_views(__name__)")
    repo = Path(here.__file__).resolve().parents[module.count(".")]
    groups = {value.name: value for value in vars(here).values() if isinstance(value, FeatureGroup)}
    if not groups:
        raise DefinitionError(f"feast_views({module!r}): there is no FeatureGroup above this line; call it after the groups")
    from serving.feast_objects import feast_objects, load_outputs  # Feast: after the definitions, whose mistakes need not wait for it

    data = load_settings(repo).data
    # A graph that cannot be read is said by whoever needs it; the batch job, which makes it anew, is loaded by this line, too.
    made = feast_objects(groups.values(), data_for_feast(repo), load_outputs(data, groups.values(), damaged=True))
    for name, value in made.by_name().items():
        if not isinstance(getattr(here, name, value), type(value)):
            raise DefinitionError(f"feast_views({module!r}): {name!r} is the name of something else in the module; rename that")
        setattr(here, name, value)
    return made
