"""Functions of a feature repository, found by ``"module:function"``, and the thin wrappers through which TFX calls them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.project.mistakes import one_line
from pipelines.project.repository import Repo, load_module
from transforms.errors import ConfigError, DataError, TandemError

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from pipelines.training.definition import Model

__all__ = ["ask_spine", "load_function", "model_of", "no_such_function", "preprocessing_fn", "run_fn"]


def load_function(repo: str | Path, reference: str) -> Callable[..., Any]:
    """The function ``"module:function"`` of the feature repository at ``repo``.

    Modules of another repository give way (:func:`pipelines.project.repository.load_module`). Raises ConfigError if there is no such
    module or function, DefinitionError if the module fails.
    """
    folder = Path(repo).resolve()
    module_name, _, function_name = reference.partition(":")
    file = folder.joinpath(*module_name.split("."))
    if not file.with_suffix(".py").is_file() and not (file / "__init__.py").is_file():
        raise ConfigError(f"{reference!r}: {folder.name}/ has no module {module_name!r}; create it or fix the name")
    function = getattr(load_module(folder, module_name), function_name, None)
    if not callable(function):
        raise no_such_function(folder, reference)
    return function  # type: ignore[no-any-return]


def no_such_function(repo: Path, reference: str) -> ConfigError:
    """The error for ``"module:function"`` where the module has no such function."""
    module, _, name = reference.partition(":")
    return ConfigError(f"{reference!r}: module {module!r} of {repo.name}/ has no function {name!r}; fix the name")


def ask_spine(repo: Path, reference: str, data: Path, start: datetime, end: datetime) -> pa.Table:
    """The labelled requests of [start, end), by the repository's function ``reference``, as an Arrow table.

    What the function raises becomes a DataError of one line that names its place; so does an answer that is no table.
    """
    from serving.spines import as_table

    function = load_function(repo, reference)
    try:
        answer = function(data, start, end)
    except TandemError:
        raise
    except Exception as error:
        raise DataError(f"spine {reference!r}: {one_line(error, repo)}") from error
    try:
        return as_table(answer)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"spine {reference!r}: its answer cannot be read: {why}; return a pyarrow.Table or a DataFrame") from None


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Calls the repository's preprocessing function with the request fields alone: it can see neither label nor features."""
    function = load_function(custom_config["repo"], custom_config["preprocessing_fn"])
    return function({name: inputs[name] for name in custom_config["request"]})  # type: ignore[no-any-return]


def run_fn(fn_args: Any) -> None:
    """Calls the repository's ``run_fn`` with TFX's arguments."""
    load_function(fn_args.custom_config["repo"], fn_args.custom_config["run_fn"])(fn_args)


def model_of(repo: Repo, name: str | None) -> Model:
    """The repository's model called ``name``, or the first of tandem.yaml. Raises ConfigError."""
    if not repo.settings.models:
        raise ConfigError("tandem.yaml: models is missing; name one, e.g. models: ['labels:my_model']")
    models: list[Model] = [repo.attribute(reference) for reference in repo.settings.models]
    found = [m for m in models if name in (None, m.name)]
    if not found:
        raise ConfigError(f"--model {name}: there is no such model; the repository has {', '.join(m.name for m in models)}")
    return found[0]
