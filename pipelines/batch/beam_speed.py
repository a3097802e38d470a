"""What Beam asks of every step, again and again while a pipeline is described and run, answered faster; the answers are the same.

Beam looks through all methods of a DoFn for parameters that stand for state and timers, some ten times for each step, by
``inspect.signature``. Hardly any DoFn has such a parameter, which the defaults of its functions tell: a pipeline of sixty steps is
described and run in half of the CPU.

And it looks at the pipeline's options twice for each step, each time as a class of options that parses the flags anew, to take values that
it has had since the first time.
"""

from __future__ import annotations

from functools import wraps
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["describe_quickly"]


def describe_quickly() -> None:
    """From here on this process asks a DoFn's functions before their signatures, and parses a class of options once. Imports Beam; twice is
    as good as once."""
    _ask_functions()
    _parse_once()


def _ask_functions() -> None:
    from apache_beam.transforms import userstate
    from apache_beam.transforms.core import _DoFnParam  # type: ignore[attr-defined, unused-ignore]

    looked_up: Any = userstate.get_dofn_specs
    if getattr(looked_up, "quick", False):
        return

    def declares(dofn: Any, name: str) -> bool:
        """Whether the method may have a parameter of Beam's; True where its function does not tell."""
        method = getattr(dofn, name, None)
        if not isinstance(method, MethodType):
            return False
        if (described := getattr(dofn, f"_inspect_{name}", None)) is not None:
            return any(isinstance(value, _DoFnParam) for value in described()[1])
        function: Any = method.__func__
        while function is not None:
            if type(function) is not FunctionType or hasattr(function, "__signature__"):
                return True
            if any(isinstance(value, _DoFnParam) for value in function.__defaults__ or ()):
                return True
            function = getattr(function, "__wrapped__", None)
        return False

    @wraps(looked_up)
    def get_dofn_specs(dofn: Any) -> Any:
        return looked_up(dofn) if any(declares(dofn, name) for name in dir(dofn)) else (set(), set())

    get_dofn_specs.quick = True  # type: ignore[attr-defined]
    userstate.get_dofn_specs = get_dofn_specs


def _parse_once() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    parsed: Any = PipelineOptions.view_as
    if getattr(parsed, "quick", False):
        return
    seen: WeakKeyDictionary[Any, dict[type, Any]] = WeakKeyDictionary()  # of options: what each class of them was parsed to

    @wraps(parsed)
    def view_as(self: Any, cls: Any) -> Any:
        before = seen.setdefault(self, {}).get(cls)
        if before is None or not self._all_options.keys() >= vars(before).keys():
            view = parsed(self, cls)
            if cls.__init__ is PipelineOptions.__init__:
                seen[self][cls] = view._visible_options
            return view
        view = cls.__new__(cls)  # and what __init__ would set: the values are in _all_options, which all views of these options share
        view._flags, view._visible_options, view._all_options = self._flags, before, self._all_options
        return view

    view_as.quick = True  # type: ignore[attr-defined]
    PipelineOptions.view_as = view_as  # type: ignore[method-assign, unused-ignore]
