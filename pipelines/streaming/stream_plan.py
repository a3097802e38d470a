"""What a stream needs before its first job, checked once; and each attempt's job."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipelines.feature_store.applying import finish
from pipelines.feature_store.materialize import take_back
from pipelines.feature_store.online_sink import Claim, views_of
from pipelines.lake.counted import counted
from pipelines.lake.folder_identity import identity_of
from pipelines.lake.graphs import graph_for, remember_definitions
from pipelines.project.repository import Repo
from pipelines.sources.broker import PartitionReader, open_broker
from pipelines.sources.formats.record_format import record_format
from pipelines.streaming.engines.stream_engine import EngineJob
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.start_position import StartPosition, choose_start, run_of
from pipelines.streaming.state.stream_link import here
from pipelines.streaming.state.workers_elsewhere import WorkersElsewhere
from pipelines.streaming.stream_options import StreamOptions
from pipelines.streaming.supervisor import Outcome, Supervisor
from transforms.errors import ConfigError, DataError, FingerprintError, OwnerError, RightsError, StoreError, TandemError

__all__ = ["StopAsked", "StreamPlan", "patiently", "still_ours", "while_ours"]

_CLAIM_SECONDS = 10.0


def while_ours(
    watch: Callable[[], None], claim: Callable[[], None], fail: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """``watch``, which also sees every ten seconds whether the rows are this data folder's still: once they are another's, the stream fails
    for good."""
    due = clock() + _CLAIM_SECONDS

    def look() -> None:
        nonlocal due
        watch()
        if clock() < due:
            return
        with suppress(ConfigError):
            still_ours(claim, fail)
        due = clock() + _CLAIM_SECONDS

    return look


def still_ours(claim: Callable[[], None], fail: Callable[[str], None]) -> None:
    """Claim the rows again; where they are another data folder's, ``fail``, and raise ConfigError. A store that is away, or an identity
    that cannot be read meanwhile, ends no stream: nobody else is known to have the rows."""
    try:
        claim()
    except ConfigError as error:
        fail(str(error))
        raise
    except (TandemError, OSError):
        pass


def patiently(what: str, do: Callable[[], None], say: Callable[[str], None], beat: Callable[[], None], pause: float = 0.5) -> None:
    """Do something with the online store, which is waited for where it is away; what ``beat`` raises meanwhile ends it. Raises what a store
    refuses that is there: no waiting changes it."""
    said = False
    while True:
        try:
            return do()
        except (RightsError, OwnerError, FingerprintError):
            raise
        except StoreError as error:
            if not said:
                say(f"waiting to {what}: {error}")
            said = True
            beat()
            time.sleep(pause)


class StopAsked(Exception):
    """The stream was asked to stop while it waited for something before its first job."""


class StreamPlan:
    """One stream: :meth:`prepare` checks it and makes ``spec``, :meth:`run` has the supervisor run its jobs, :meth:`close`."""

    def __init__(self, repo: Repo, options: StreamOptions, job_state: JobState, say: Callable[[str], None]) -> None:
        self.repo, self.options, self.job_state, self.say = repo, options, job_state, say
        self.attempts = 0
        self.reader: PartitionReader | None = None
        self._elsewhere: WorkersElsewhere | None = None
        self._claim = Claim(repo)
        tensorflow = ("tensorflow",) if any(g.preprocessing_fn for g in repo.groups.values()) else ()
        preload = ("pipelines.streaming.stages.stream_graph", "feast", *tensorflow)
        self.engine = options.engine()(options.engine_options(job_state.folder, preload, repo.path, repo.data), say)

    def prepare(self) -> None:
        """Check everything once, and decide where to start. Raises ConfigError, DataError, GraphError, StoreError;
        StopAsked if it is asked to stop while it waits for an apply."""
        repo, options, job_state, settings = self.repo, self.options, self.job_state, self.repo.settings
        broker = open_broker(settings.kafka, repo.data)
        if not (broker.shared or self.engine.in_process):
            raise ConfigError(
                f"{broker!r} lives in this process, and the workers of engine {self.engine.name!r} do not; use --runner direct"
            )
        self.engine.prepare()
        finish(repo, self.say, self._go_on)
        parts = self.engine.parts(options.shards or settings.stream.shards)
        stream = settings.stream.model_copy(update={"shards": parts})
        for group in repo.groups.values():
            if not group.source.topic:
                raise ConfigError(f"source {group.source.name!r} has no topic, and group {group.name!r} needs it; give it one: topic='...'")
        remember_definitions(repo.data, repo.groups.values())
        graphs = {name: graph_for(repo.data, group, "'tandem batch' and 'tandem apply'") for name, group in repo.groups.items()}
        reader = self.reader = broker.open_reader()
        sources = {g.source.name: g.source for g in repo.groups.values()}
        for source in sources.values():
            record_format(source, settings.kafka)  # settings that do not fit are told once, here, and not by each attempt of the engine
        partitions = {n: reader.partitions(s.topic) for n, s in sources.items()}
        topics = {n: reader.identity(s.topic) for n, s in sources.items()}
        for s in sources.values():  # who may not read is told now; who later may not any more waits
            with suppress(StoreError, DataError):
                reader.poll(s.topic, 0, reader.end(s.topic, 0), 1, 0)
        until = {n: {p: reader.end(s.topic, p) for p in range(partitions[n])} for n, s in sources.items()} if options.until else None
        start = self._start(stream.shards, options.reset)
        link = job_state.link
        if start.begins_empty and (run := run_of(repo, graphs)) is not None:
            self.say(
                f"windows begin empty: batch run {run.id} has history up to {run.head.range[1][:16]} that they do not hold, unless the"
                " topics do; rows are short until the longest window has passed. '--reset --from-run latest' goes on from the run"
            )
        elif options.from_run == "latest" and (newer := run_of(repo, graphs)) is not None and start.run != str(newer.folder):
            began = f"from run {Path(start.run).name}" if start.run else "with empty windows"
            self.say(
                f"the checkpoint goes before --from-run latest: the stream began {began}, and what batch run {newer.id} corrects or has"
                " beyond that is not in its windows; '--reset --from-run latest' goes on from that run"
            )
        self.spec = JobSpec(
            repo=repo.path,
            data=repo.data,
            folder=job_state.folder,
            groups=repo.groups,
            graphs=graphs,
            kafka=settings.kafka,
            stream=stream,
            broker=broker,
            start=start,
            until=until,
            topics=topics,
            one_tick=not self.engine.endless,
            restored=options.savepoint is not None,
            shard_keys=self.engine.shard_keys(stream.shards),
            attempt="" if link is None else link.attempt,
            views=views_of(repo) if link is not None and self.engine.elsewhere else {},
            owner=str(identity_of(repo.data)),
            url=None if link is None else link.cache.url,
            home="" if link is None else here(job_state.folder),
        )
        if link is not None and self.engine.elsewhere:
            self._elsewhere = WorkersElsewhere(job_state, link)
            self._elsewhere.start()
        total = sum(partitions.values())
        why = f"savepoint {options.savepoint} (without it: {start.why})" if options.savepoint else start.why
        self.say(f"starting from {why}: {counted(repo.groups, 'group')}, {counted(total, 'partition')}, {counted(stream.shards, 'shard')}")

    def _start(self, shards: int, reset: bool = False) -> StartPosition:
        """Where the next attempt starts. In an object store, what an attempt before still does counts no more from now on."""
        link = self.job_state.link
        if link is not None:
            link.fence(uuid.uuid4().hex)
            self.job_state.have_checkpoints()
        start = choose_start(self.repo, self.job_state, shards, self.options.from_run, reset)
        if link is not None:
            link.place(shards)
            link.sweep_tiles()
        return start

    def run(self, watch: Callable[[], None]) -> Outcome:
        """Run jobs until the stream ends; none if it is asked to stop before the first. Raises ConfigError and StoreError where the store
        refuses it before that."""
        watch = while_ours(watch, self._claim, self.job_state.fail)
        try:
            self._patiently(watch, "start", self._claim)
            self._take_back(watch)
            self._go_on()
        except StopAsked:
            return Outcome(0, "stopped")
        supervisor = Supervisor(
            self.job_state,
            self._attempt,
            self.spec.stream.shards,
            self.say,
            until=self.spec.until,
            watch=watch,
            savepoint=self.engine.stop_with_savepoint if self.engine.savepoints else None,
        )
        return supervisor.run()

    def _go_on(self) -> None:
        """Raises StopAsked, and ConfigError once the rows are another's."""
        if (why := self.job_state.failure()) is not None:
            raise ConfigError(why)
        savepoint = self.job_state.requested("savepoint")
        if savepoint:
            self.say("no savepoint was taken: the stream has no job yet; it keeps its own checkpoint")
        if savepoint or self.job_state.requested("stop"):
            raise StopAsked

    def _patiently(self, watch: Callable[[], None], what: str, do: Callable[[], None]) -> None:
        """:func:`patiently`, with a look at whether the stream is asked to stop: raises StopAsked."""

        def beat() -> None:
            watch()
            self._go_on()

        patiently(what, do, self.say, beat)

    def _take_back(self, watch: Callable[[], None]) -> None:
        """Where it begins anew at the end of a run: take out of the online store what it had delivered beyond that before. A store that is
        away is waited for. Where another stream has checkpoints here, its rows cannot be told from ours, and all stay."""
        start = self.spec.start
        if not start.begins_at_run or self.options.savepoint is not None or not self.job_state.began_before():
            return
        if others := self.job_state.beside():
            self.say(
                f"stream {others[0]!r} writes here, too: rows that this one had delivered beyond the run stay online until newer ones come;"
                " 'tandem verify' finds those that a correction left wrong"
            )
            return
        delays = {name: group.delay_us for name, group in self.repo.groups.items()}
        beyond = {name: at + delays[name] for name, at in start.output_watermark.items() if at is not None}

        def beat() -> None:
            watch()
            self._go_on()

        def take() -> None:
            if taken := take_back(self.repo, beyond, self.say, beat):
                self.say(
                    f"{counted(taken, 'row')} that it had delivered beyond the run were taken out of the online store:"
                    " they are made anew, from the run and the topics as they are now"
                )

        self._patiently(watch, "take out what was delivered beyond the run", take)

    def _attempt(self, attempt: int) -> EngineJob:
        self.attempts = attempt
        spec = self.spec
        if attempt:
            still_ours(self._claim, self.job_state.fail)
            start = self._start(spec.stream.shards)
            spec = replace(spec, start=start, restored=False, attempt="" if (link := self.job_state.link) is None else link.attempt)
            self.say(f"restarting from {spec.start.why}")
        return self.engine.new_job(spec, attempt == 0)

    def close(self) -> None:
        """Close the connection, end what the engine prepared and did not need."""
        if self._elsewhere is not None:
            self._elsewhere.close()
        if self.reader is not None:
            self.reader.close()
        self.engine.close()
