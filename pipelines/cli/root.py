"""The command ``tandem``: every command, ours and other packages', by name. Each is imported when it is asked for."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import pipelines.workflow  # noqa: F401  # so that runs of every command are tracked
from pipelines.cli.extras import lacking, require
from pipelines.cli.log_format import take_log_format
from pipelines.cli.params import take_params
from pipelines.cli.renamed import take_old_names
from pipelines.lake.data_files import hide_from_others
from pipelines.lake.user_output import stdout_to_stderr
from pipelines.project.extensions import Extensions, owner, reason
from pipelines.project.mistakes import kept_trace, of_system, one_line, place_of
from pipelines.reports.terminal import screen
from serving import tracing
from tandem import __version__
from tandem.quick_imports import quicken_imports
from transforms.errors import ConfigError, TandemError, ours_in
from transforms.own_program import interrupts_as_usual, is_interrupt, leave

__all__ = ["COMMANDS", "GROUP", "app", "fail", "main"]

GROUP = "tandem.commands"
"""The entry point group in which a package offers commands: name = "module:attribute", a function for Typer or a ``typer.Typer``."""

COMMANDS = {
    "init": "pipelines.demo.demo_commands:init",
    "infer": "pipelines.cli.infer:infer",
    "check": "pipelines.cli.check_command:check",
    "plan": "pipelines.cli.plan:plan",
    "events": "pipelines.cli.batch:events",
    "batch": "pipelines.cli.batch:batch",
    "apply": "pipelines.cli.batch:apply",
    "materialize": "pipelines.cli.batch:materialize",
    "serve": "pipelines.cli.serve:serve",
    "keys": "pipelines.cli.keys_commands:app",
    "demo": "pipelines.demo.demo_commands:demo",
    "up": "pipelines.cli.services:up",
    "down": "pipelines.cli.services:down",
    "status": "pipelines.cli.services:status",
    "models": "pipelines.cli.registry:models",
    "evaluate": "pipelines.cli.registry:evaluate",
    "promote": "pipelines.cli.registry:promote",
    "rollback": "pipelines.cli.registry:rollback",
    "compare": "pipelines.cli.registry:compare",
    "audit": "pipelines.cli.audit_command:audit",
    "erase": "pipelines.cli.forget:erase",
    "vacuum": "pipelines.cli.forget:vacuum",
    "train": "pipelines.cli.train:train",
    "pipeline": "pipelines.cli.pipeline:pipeline",
    "track": "pipelines.cli.tracking:track",
    "export": "pipelines.cli.export:app",
    "topics": "pipelines.cli.topics:app",
    "archive": "pipelines.cli.topics:archive",
    "replay": "pipelines.cli.replay:replay",
    "verify": "pipelines.cli.verify:verify",
    "labels": "pipelines.cli.monitor:labels",
    "monitor": "pipelines.cli.monitor:monitor",
    "stream": "pipelines.cli.stream:app",
    "dlq": "pipelines.cli.dlq:app",
    "runs": "pipelines.cli.runs_commands:app",
    "reproduce": "pipelines.cli.runs_commands:reproduce",
    "lineage": "pipelines.cli.runs_commands:lineage",
    "watch": "pipelines.cli.watch:app",
    "metrics": "pipelines.cli.watch:metrics",
}
"""Our own commands, in the order of ``tandem --help``; each stands for ``"module:attribute"`` as an entry point does."""

_EXTRA_ARGUMENTS = {"batch"}  # what stands after -- goes to Beam


_LEFT_EARLY = {"tensorflow", "pyarrow"}
"""Who has them leaves before the interpreter goes down: TensorFlow's functions print errors when they are collected then, and a thread of
Arrow that lets go of Python's bytes then ends the process with SIGABRT."""

_AS: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


class _ByName(Mapping[str, Any]):
    """All commands in the order of the help, each imported when it is asked for: who runs one does not wait for the others.

    Other packages' are looked for, and all of them imported, when a name that is none of ours is asked for, and to list all.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made and name in COMMANDS:
            module, _, attribute = COMMANDS[name].partition(":")
            self._made[name] = _made(name, getattr(import_module(module), attribute))
        return self._made[name] if name in COMMANDS else self._outside[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS or name in self._outside

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict; a KeyError while a command is imported is that command's fault, and does not make it one that is not there."""
        if name not in self:
            return default
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*COMMANDS, *self._outside))

    def __len__(self) -> int:
        return len(COMMANDS) + len(self._outside)

    @cached_property
    def _outside(self) -> dict[str, Any]:
        found = {}
        for point in Extensions("command", GROUP, COMMANDS).installed():
            whose = f"command {point.name!r} of {owner(point)}"
            if point.name in COMMANDS:
                print(f"{whose} is ignored: tandem already has a command of that name", file=sys.stderr)
                continue
            try:
                found[point.name] = _made(point.name, point.load())
            except Exception as error:  # another package's fault must not take ours away
                print(f"{whose} is ignored: {reason(error)}", file=sys.stderr)
        return found


class _Commands(TyperGroup):
    """The group of all commands: one whose packages are missing says so before it begins; its help is there all the same."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        take_log_format(self)
        self.commands = _ByName()  # type: ignore[assignment]  # nothing is ever added to them

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found = super().resolve_command(ctx, args)
        interrupts_as_usual()  # the command is imported
        if found[0] is not None and "--help" not in args:
            require(found[0], next(iter(found[2]), ""))
        return found

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ModuleNotFoundError, TandemError) as error:
            if (lacks := lacking(ctx.invoked_subcommand or "", error)) is None:
                raise
            raise lacks from error
        except SystemExit as stop:  # a command ends by Typer's exceptions: this is the user's code, or a library
            if not (place := place_of(stop)):
                raise
            raise ConfigError(f"{place}: sys.exit({stop.code!r}) ended the command; raise an error that says what is wrong") from None
        except KeyboardInterrupt:  # Typer would end here without a word
            raise typer.Exit(_interrupted()) from None


app = typer.Typer(
    name="tandem",
    cls=_Commands,
    no_args_is_help=True,
    **_AS,
    help="Feature engineering with batch/stream parity: one definition, computed in batch for training and as a Kafka stream for serving.",
)


def _list_whole(group: Any) -> None:
    """A list of commands says what each is for in whole, over several lines, and not as much as one line holds."""
    for command in getattr(group, "commands", {}).values():
        command.short_help = command.short_help or " ".join((command.help or "").split("\n\n")[0].split())
        _list_whole(command)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tandem {__version__}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")] = False,
) -> None:
    pass


def _print_results_alone(command: Any) -> None:
    """Whatever else a command runs prints on stderr: its result, by ``reports.terminal``, stands alone on stdout. Not so those of other
    packages, which may print as they like."""
    if command.callback is not None:
        command.callback = stdout_to_stderr()(command.callback)
    for below in getattr(command, "commands", {}).values():
        _print_results_alone(below)


def _made(name: str, command: Any) -> Any:
    """A command as it stands in the group, with the options that each of them has; of a function, or of a ``typer.Typer``."""
    alone = typer.Typer(callback=_options, **_AS)  # the callback makes it a group
    if isinstance(command, typer.Typer):
        alone.add_typer(command, name=name)
    else:
        alone.command(name, context_settings={"allow_extra_args": name in _EXTRA_ARGUMENTS})(command)
    group: Any = typer.main.get_command(alone)
    take_params(group.commands[name])
    take_log_format(group.commands[name])
    if name in COMMANDS:
        take_old_names(group.commands[name])
        _print_results_alone(group.commands[name])
    _list_whole(group)
    return group.commands[name]


def fail(error: BaseException) -> int:
    """Print one line; the exit code 1."""
    screen.print(f"error: {' '.join(str(error).split())}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def _interrupted() -> int:
    """Say so in one line; the exit code of a program that SIGINT ended."""
    fail(RuntimeError("interrupted; run the same command again to resume"))
    return 130


def _own_files_only() -> None:
    """What we and our children write, others neither read nor write: it is people's data. ``TANDEM_UMASK`` (octal) says otherwise."""
    mask = os.environ.get("TANDEM_UMASK", "077")
    try:
        hide_from_others(int(mask, 8) & 0o777)
    except ValueError:
        hide_from_others(0o077)
        print(f"TANDEM_UMASK {mask!r} is not an octal number such as 027; using 077", file=sys.stderr)


def main() -> None:
    """Entry point: every error is one line. One that nobody expected names the place in the user's files, and a file with its trace."""
    code: Any = 0
    _own_files_only()
    quicken_imports()
    try:
        app()
    except SystemExit as stop:
        code = stop.code
    except TandemError as error:
        code = fail(error)
    except OSError as error:
        code = fail(RuntimeError(of_system(error)))
    except BaseException as error:  # the user's code, or a library that nothing translated; a panic of code in Rust is no Exception
        code = _interrupted() if is_interrupt(error) else fail(ours_in(error) or RuntimeError(f"{one_line(error)} ({kept_trace(error)})"))
    if not _LEFT_EARLY.isdisjoint(sys.modules):
        tracing.finish()
        leave(code if isinstance(code, int) else 0 if code is None else 1)
    sys.exit(code)


if __name__ == "__main__":
    main()
