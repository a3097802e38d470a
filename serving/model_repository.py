"""The folder of models: versions are loaded, warmed, checked and swapped in while requests go on.

Which one answers: the champion of ``ALIASES.json`` (:mod:`serving.aliases`) where a model has that file, else its newest version. A
champion that cannot be loaded or may not be served is refused: what runs goes on, and :attr:`ModelState.warning` says so.

A version is a folder ``<models>/<name>/<number>`` with ``saved_model.pb`` or ``model.onnx``, and ``tandem.json``; a pusher writes it under
another name (or ``tandem.json`` last) and renames it, so that what is complete is final. Other names are not looked at.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from serving.aliases import Aliases, read_aliases
from serving.metrics import Metrics
from serving.models import MODEL_FILES, LoadedModel, ModelSpec, load_model
from serving.request_errors import ModelError, NotFoundError, UnavailableError
from transforms.data_folder import SPEC_FILE
from transforms.errors import FingerprintError, TandemError

__all__ = ["ModelRepository", "ModelState", "Watcher"]

log = logging.getLogger("tandem.serving")

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_VERSION = re.compile(r"[1-9][0-9]{0,17}|0")
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelState:
    """One model, as of one look at the folder: the version being served, the versions loaded, what is wrong with others."""

    current: LoadedModel | None = None
    loaded: Mapping[int, LoadedModel] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)
    aliases: Aliases | None = None
    """Of the last ``ALIASES.json`` that could be read; None while the model has none."""
    warning: str = ""
    """Why what runs is not what the aliases name, or why they cannot be followed; empty when all is well."""

    @property
    def challenger(self) -> LoadedModel | None:
        """The challenger, if it is loaded and is not what is being served."""
        found = self.loaded.get(self.aliases.challenger) if self.aliases is not None and self.aliases.challenger is not None else None
        return None if found is self.current else found

    @property
    def reason(self) -> str:
        """Why no version is served; empty when one is."""
        if self.current is not None:
            return ""
        if self.warning:
            return self.warning
        return self.problems[max(self.problems)] if self.problems else "no version has been pushed"


class ModelRepository:
    """All models of a server. :meth:`poll` is called by one thread at a time; everything else by any."""

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        *,
        check: Callable[[ModelSpec], None],
        keep: int = 2,
        challengers: bool = False,
        load: Callable[[Path, ModelSpec], LoadedModel] = load_model,
    ) -> None:
        """``check`` raises a TandemError for a specification that may not be served now; it is asked at every poll
        until the version runs. At most ``keep`` versions of a model are loaded; with ``challengers`` its challenger is
        one of them, and then at least two."""
        self._folder = folder
        self._metrics = metrics
        self._check = check
        self._keep = keep
        self._challengers = challengers
        self._load = load
        self._states: Mapping[str, ModelState] = MappingProxyType({})
        self._bad: dict[Path, tuple[Stamp, str]] = {}
        self._said: dict[Path, str] = {}

    @property
    def states(self) -> Mapping[str, ModelState]:
        """Every model by its name; an immutable view."""
        return self._states

    def state(self, name: str) -> ModelState:
        """The state of a model; NotFoundError if there is none of that name."""
        state = self._states.get(name)
        if state is None:
            known = ", ".join(repr(n) for n in sorted(self._states)[:8])
            raise NotFoundError(f"unknown model {name[:60]!r}; " + (f"there is {known}" if known else "no model has been pushed"))
        return state

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The model being served, or one of its loaded versions."""
        state = self.state(name)
        if version is None:
            if state.current is None:
                raise UnavailableError(f"model {name!r} is not ready: {state.reason}")
            return state.current
        if _VERSION.fullmatch(version):
            number = int(version)
            if number in state.loaded:
                return state.loaded[number]
            if number in state.problems:
                raise UnavailableError(f"model {name!r} version {number} is not ready: {state.problems[number]}")
        have = ", ".join(map(str, sorted(state.loaded))) or "none"
        raise NotFoundError(f"model {name!r} has no version {version[:20]!r} loaded; loaded: {have}")

    def poll(self) -> None:
        """Look at the folder once and take what is new. Never raises over what is in the folder."""
        try:
            names = sorted(p.name for p in self._folder.iterdir() if _MODEL.fullmatch(p.name) and p.is_dir())
        except OSError:
            names = []  # not there yet, or not readable now: what runs goes on running
        for name in dict.fromkeys([*self._states, *names]):
            old = self._states.get(name, ModelState())
            new = self._polled(name, old)
            if new != old or name not in self._states:
                self._states = MappingProxyType({**self._states, name: new})
                self._report(name, old, new)

    def _polled(self, name: str, old: ModelState) -> ModelState:
        try:
            folders = [p for p in (self._folder / name).iterdir() if _VERSION.fullmatch(p.name) and p.is_dir()]
            versions = sorted((int(p.name) for p in folders), reverse=True)
        except OSError:
            versions = []
        trouble = ""
        try:
            aliases = read_aliases(self._folder / name, f"model {name!r}")
        except ModelError as e:
            aliases, trouble = None, str(e)
        if aliases is not None and aliases.champion is None:
            trouble = f"model {name!r}: no champion is set; run 'tandem promote'"
        if aliases is None and not trouble and old.aliases is not None:
            trouble = f"model {name!r}: its ALIASES.json is missing; 'tandem promote --version N' rewrites it"
        if trouble:
            # Nobody knows now who is champion. An unproven version must not get there by an accident with a file: nothing is loaded.
            return replace(old, warning=trouble)
        return self._newest(name, old, versions) if aliases is None else self._by_aliases(name, old, versions, aliases)

    def _newest(self, name: str, old: ModelState, versions: list[int]) -> ModelState:
        loaded: dict[int, LoadedModel] = {}
        problems: dict[int, str] = {}
        self._fill(name, old, versions, loaded, problems, self._keep)
        if not loaded:
            # Nothing on disk can take over: the running model goes on, also when its folder is gone.
            return ModelState(old.current, old.loaded, problems)
        return ModelState(loaded[max(loaded)], loaded, problems)

    def _by_aliases(self, name: str, old: ModelState, versions: list[int], aliases: Aliases) -> ModelState:
        champion, running = aliases.champion, old.current
        loaded: dict[int, LoadedModel] = {}
        problems: dict[int, str] = {}
        assert champion is not None
        current = self._take(name, champion, old, versions, problems, again=running is None or running.spec.version != champion)
        warning = ""
        if current is None:
            refused = problems[champion]
            # What would be running had this server been up all the time: the champion before.
            before = [v for v in aliases.champions if v != champion]
            current = running or next((m for v in before if (m := self._take(name, v, old, versions, problems, again=True))), None)
            if current is not None and current.spec.version == champion:
                warning = f"champion version {champion} is being served, but could not be reloaded: {refused}"
            else:
                goes_on = "no version is" if current is None else f"version {current.spec.version} is served instead"
                warning = f"champion version {champion} is not served, {goes_on}: {refused}"
        if current is not None:
            loaded[current.spec.version] = current
        most, asked = self._keep, list(aliases.champions)
        if self._challengers and aliases.challenger is not None:
            most, asked = max(2, most), [aliases.challenger, *asked]
        self._fill(name, old, [v for v in (*asked, *versions) if v in versions], loaded, problems, most)
        if self._challengers and not warning and aliases.challenger is not None and aliases.challenger not in loaded:
            why = problems.get(aliases.challenger, "its folder is missing")
            warning = f"challenger version {aliases.challenger} is not loaded: {why}"
        return ModelState(current, loaded, problems, aliases, warning)

    def _fill(
        self, name: str, old: ModelState, order: list[int], loaded: dict[int, LoadedModel], problems: dict[int, str], most: int
    ) -> None:
        """Load versions in this order until ``most`` are loaded."""
        for version in dict.fromkeys(order):
            if len(loaded) >= most:
                break
            if version not in loaded and version not in problems and (model := self._take(name, version, old, order, problems)) is not None:
                loaded[version] = model

    def _take(
        self, name: str, version: int, old: ModelState, versions: list[int], problems: dict[int, str], again: bool = False
    ) -> LoadedModel | None:
        """The version, loaded before or now; None if it cannot be served, with the reason in ``problems``. ``again``: ask whether it may be
        served though it is loaded."""
        path = self._folder / name / str(version)
        try:
            if version not in versions:
                raise ModelError(f"model {name!r} version {version}: its folder is missing; promote another version")
            # A version that runs is not checked again: should rows of another graph come, each request shows it by its rows.
            model = old.loaded.get(version)
            if model is None:
                model = self._version(path, name, version)
            elif again:
                self._check(model.spec)
            self._said.pop(path, None)
            return model
        except TandemError as e:
            problems[version] = str(e)
            self._say(name, path, e)
            return None

    def _version(self, path: Path, name: str, version: int) -> LoadedModel:
        what = f"model {name!r} version {version}"
        stamp = _stamp(path)
        if path in self._bad and self._bad[path][0] == stamp:
            raise ModelError(self._bad[path][1])
        files = {Path(s[0]).name for s in stamp}
        if SPEC_FILE not in files or not files & set(MODEL_FILES):
            lacks = SPEC_FILE if SPEC_FILE not in files else " or ".join(MODEL_FILES)
            raise ModelError(f"{what}: incomplete, there is no {lacks}; push it again")
        try:
            try:
                spec = ModelSpec.parse((path / SPEC_FILE).read_bytes(), f"{what}: {SPEC_FILE}")
            except OSError as e:
                raise ModelError(f"{what}: {SPEC_FILE} cannot be read ({type(e).__name__})") from e
            if (spec.name, spec.version) != (name, version):
                raise ModelError(f"{what}: {SPEC_FILE} says {spec.name!r} version {spec.version}; push it to its own folder")
        except ModelError as e:
            self._bad[path] = (stamp, str(e))
            raise
        self._check(spec)
        try:
            return self._load(path, spec)
        except ModelError as e:
            self._bad[path] = (stamp, str(e))
            raise

    def _say(self, name: str, path: Path, error: TandemError) -> None:
        if self._said.get(path) == str(error):
            return
        self._said[path] = str(error)
        reason = "fingerprint" if isinstance(error, FingerprintError) else "damaged" if path in self._bad else "not_ready"
        self._metrics.reload_failures.labels(name, reason).inc()
        log.warning("not served: %s", error, exc_info=error.__cause__)

    def _report(self, name: str, old: ModelState, new: ModelState) -> None:
        for version, model in old.loaded.items():
            if version not in new.loaded:
                self._metrics.info.remove(name, str(version), model.spec.run)
        for version, model in new.loaded.items():
            self._metrics.info.labels(name, str(version), model.spec.run).set(1)
        if new.warning != old.warning:
            log.warning("model %s: %s", name, new.warning or "its aliases are valid again")
        served = new.current.spec.version if new.current is not None else None
        if new.aliases is not None:
            self._metrics.alias.labels(name, "champion").set(new.aliases.champion or 0)
            self._metrics.alias.labels(name, "challenger").set(new.aliases.challenger or 0)
            self._metrics.astray.labels(name).set(int(bool(new.warning) or served != new.aliases.champion))
        elif new.warning:
            self._metrics.astray.labels(name).set(1)
        if new.current is not None and new.current is not old.current:
            self._metrics.model.labels(name).set(new.current.spec.version)
            self._metrics.reloads.labels(name).inc()
            log.info("model %s: version %d is served", name, new.current.spec.version)


class Watcher:
    """A daemon thread that calls ``step`` every ``seconds`` until closed. An error in a step is logged, and the next one comes."""

    def __init__(self, step: Callable[[], None], seconds: float) -> None:
        self._step = step
        self._seconds = seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tandem-watcher", daemon=True)

    def start(self) -> None:
        """Begin; the first step comes after one interval."""
        self._thread.start()

    def close(self) -> None:
        """End, after the step under way."""
        self._closed.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            try:
                self._step()
            except Exception:
                log.exception("watching models: a check failed; next check in %g s", self._seconds)


def _stamp(path: Path) -> Stamp:
    out = []
    for p in sorted(path.rglob("*")):
        try:
            info = p.stat()
        except OSError:
            continue
        out.append((str(p.relative_to(path)), info.st_size, info.st_mtime_ns))
    return tuple(out)
