"""Where a stream starts: at its resume point, after a batch run, or at the beginning of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transforms.intake import NEVER

__all__ = ["Start", "resume"]


@dataclass(frozen=True)
class Start:
    """``emitted``: group -> boundary up to which rows are out (None: none are). ``offsets``: source -> partition -> (first offset to
    read, newest event time before it). ``done``: source -> partition -> offset before which all was delivered. ``begin``: events
    before it are the batch run's (microseconds). ``run``: the folder of that run, whose tiles fill the windows; ``why`` for people.

    A partition that is not there is read from its beginning.
    """

    emitted: Mapping[str, int | None] = field(default_factory=dict)
    offsets: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    done: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)
    begin: int = NEVER
    run: str | None = None
    why: str = "the beginning of the topics"


def resume(progress: Iterable[Mapping[str, Any]], shards: int, begin: int, run: str | None) -> Start | None:
    """The start that the resume points of all ``shards`` (as they were then) give; None unless every shard has one.

    The least over the shards holds for all, so that their number may change.
    """
    points = list(progress)
    if len(points) < shards or not points:
        return None
    emitted: dict[str, int | None] = {}
    offsets: dict[str, dict[int, tuple[int, int]]] = {}
    done: dict[str, dict[int, int]] = {}
    for name in points[0]["emitted"]:
        values = [p["emitted"][name] for p in points]
        emitted[name] = None if None in values else min(values)
    for source in points[0]["partitions"]:
        # A partition that not every shard has heard of was delivered by none of these: it is read from its beginning.
        common = set.intersection(*(set(p["partitions"][source]) for p in points))
        for text in sorted(common, key=int):
            each = [p["partitions"][source][text] for p in points]
            first = min(each, key=lambda e: e["needed"])
            offsets.setdefault(source, {})[int(text)] = (first["needed"], first["needed_newest"])
            done.setdefault(source, {})[int(text)] = min(e["next"] for e in each)
    return Start(emitted, offsets, done, dict(points[0].get("topics", {})), begin, run, "the resume point of the run before")
