"""What stands within the manifests of runs, typed: files, code, tiles, queries, checks. Each may lack a key: an older version did not write
it. Light: standard library only."""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = [
    "Code", "Continued", "Engine", "InputFile", "Machine", "OutputFile", "PassedOver", "PassedOverFile", "PromotionCheck", "RetrainTrigger",
    "StreamStart", "SuiteOutcome", "TileSet", "TrainingQuery",
]  # fmt: skip


class InputFile(TypedDict):
    """A file that a run read, by its path in the data folder."""

    file: str
    size: int
    sha256: str


class OutputFile(TypedDict):
    """A file that a run made; ``path`` is relative to the data folder where it lies there."""

    name: str
    path: str
    bytes: int
    sha256: str


class Engine(TypedDict, total=False):
    """Which Tandem it was: the package's version, and the commit of its own checkout, where it ran from one."""

    version: str
    commit: str
    dirty: bool


class Code(TypedDict, total=False):
    """The code that a run was made with, see ``provenance.code_version``. ``commit`` and ``dirty`` are the user's repository's; runs of
    before there was ``engine`` have the engine's there."""

    sha256: str
    values: str
    commit: str
    dirty: bool
    engine: Engine
    files: dict[str, str]
    value_files: dict[str, str]


class Machine(TypedDict, total=False):
    """What of the machine can change the last digit of a float."""

    system: str
    cpu: str
    cores: int | None


class SuiteOutcome(TypedDict, total=False):
    """What came of a suite of expectations."""

    over: str
    rows: int
    failed: int
    results: list[dict[str, Any]]
    """Each as Great Expectations says it."""


class TileSet(TypedDict, total=False):
    """The tiles that a batch run kept, for who goes on where it ended."""

    end_us: int
    shards: int
    groups: dict[str, int]
    """Group -> tiles."""


class Continued(TypedDict, total=False):
    """The run whose tiles a batch run went on with."""

    run: str
    end: str
    """Which is where this one starts."""
    tiles: str
    """The SHA-256 of their hashes."""


class PassedOverFile(TypedDict):
    """A file that was not read."""

    file: str
    why: str


class PassedOver(TypedDict):
    """What lay in a source's folder and was not read: how much, and the first of it."""

    count: int
    files: list[PassedOverFile]


class TrainingQuery(TypedDict, total=False):
    """All that it takes to make a training set again; what the set says of itself has the names that it has there
    (``training_set_record``)."""

    start: str
    end: str
    model: dict[str, Any]
    """The model's canonical form."""
    features: list[str]
    projections: dict[str, Any]
    fingerprints: dict[str, str]
    spine: str
    spine_sha256: str
    borders: list[str]
    borders_us: list[int]
    values_sha256: str
    as_of: str
    runs: dict[str, list[str]]
    """View -> the batch runs whose rows were joined."""
    tags: dict[str, str | None]
    """View -> the fingerprint that its rows were tagged with."""


class PromotionCheck(TypedDict, total=False):
    """One demand on a version; see ``promotion.verdict.Check``."""

    metric: str
    slice: str
    against: str
    rows: int
    value: float | None
    champion: float | None
    limit: float | None
    ok: bool | None
    why: str
    line: str
    """The check in words."""


class StreamStart(TypedDict, total=False):
    """Where a stream began."""

    why: str
    run: str | None
    offsets: dict[str, dict[str, int]]
    """Source -> partition -> offset."""


class RetrainTrigger(TypedDict, total=False):
    """A reason to train anew; see ``watch.decide.Trigger``."""

    name: str
    why: str
