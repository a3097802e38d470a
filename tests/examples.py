"""How many examples the properties are tried on: one rule for all tests, set here and by the environment.

``TANDEM_HYPOTHESIS`` chooses: ``quick`` (the default, for ``make test``) tries a third of what a property asks for, the same in each run;
``full`` all of it (``make prove``, the workflow file) and ``explore`` ten times that (the workflow file, each night), drawn anew each time.
A failure prints the line that repeats it (``@reproduce_failure``).
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

__all__ = ["examples"]

_SHARES = {"quick": (1, 3), "full": (1, 1), "explore": (10, 1)}
_CHOSEN = os.environ.get("TANDEM_HYPOTHESIS", "quick")
# A property holds however slow the machine is that looks for a counterexample.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": _SLOW, "print_blob": True}


def examples(asked: int, chosen: str = _CHOSEN) -> int:
    """How many of the examples that a property asks for are tried in this run; one at least."""
    part, whole = _SHARES[chosen]
    return max(1, asked * part // whole)


for _name in _SHARES:
    _repeats: dict[str, Any] = {} if _name != "quick" else {"derandomize": True}
    settings.register_profile(_name, max_examples=examples(100, _name), **_COMMON, **_repeats)
settings.load_profile(_CHOSEN)
