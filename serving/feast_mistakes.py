"""What is wrong with ``feature_store.yaml``, in one line that repeats nothing of what stands there: it may be a password."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["NO_ONLINE_STORE", "mistake_in"]

NO_ONLINE_STORE = "feature_store.yaml has no online store (online_store: null); name one there, as the file that 'tandem init' writes does"
"""For what needs one: Feast has its provider without a store then."""


def mistake_in(error: BaseException) -> str:
    """Of what Feast raises for its configuration: each setting with what it should be; else the first line."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ValidationError):
        found = found.__cause__ or found.__context__
    if found is None:
        return (str(error).splitlines() or [type(error).__name__])[0][:300]
    told = []
    for one in found.errors(include_url=False, include_context=False, include_input=False):
        what = {"extra_forbidden": "there is no such setting", "missing": "is missing"}.get(one["type"], one["msg"])
        told.append(f"{'.'.join(map(str, one['loc']))}: {what}")
    return "; ".join(told)[:300]
