"""Commands that are killed at each step by which they change what others see: a process with all imports, of which each command is a fork.

A step is a call of the system that creates, writes, renames, removes or syncs a file or folder, or sends to a socket (``steps.c``), whoever
makes it: Python, SQLite, Arrow. So every moment at which a kill can leave another state behind is one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Stepper"]

OURS = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))
"""Where modules are that are none of a repository's."""


class Stepper:
    """Runs ``tandem`` commands in forks. ``promotes``: without the judging of promotions, which changes nothing."""

    def __init__(self, folder: Path, promotes: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "steps.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_name("steps.c")), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.prove.steps", str(library), *(["promotes"] if promotes else [])]
        self.log = open(folder / "steps.log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._answer() == "ready"

    def run(self, *words: str, at: int = 0, half: bool = False) -> tuple[int, int]:
        """Exit code (of a signal its negative number), and the steps taken: killed before step ``at``, or with ``half`` in write ``at``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"words": words, "at": at, "half": half}) + "\n")
        self.process.stdin.flush()
        code, steps = self._answer()
        return code, steps

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"see {self.log.name}"
        return json.loads(line)

    def said(self) -> str:
        """The end of what it said."""
        return Path(self.log.name).read_text()[-500:]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()


def _main(library: str, promotes: bool) -> None:
    from typer.testing import CliRunner

    from pipelines.cli.root import app
    from pipelines.promotion import promote as promotion

    if promotes:
        promotion.decide = lambda repo, model, candidate, say=None: promotion.Decision(candidate, (), (), (), None)
    steps = ctypes.CDLL(library)
    steps.steps_done.restype = ctypes.c_long

    def work(words: list[str], at: int, half: bool) -> dict[str, Any]:
        known = set(sys.modules)
        steps.steps_begin(ctypes.c_long(at), int(half))
        result = CliRunner().invoke(app, words)
        done = steps.steps_done()
        if result.exit_code:
            print(words, result.output, result.exception, file=sys.stderr, flush=True)
        here = [n for n in sys.modules if n not in known and str(getattr(sys.modules[n], "__file__", None)).startswith(OURS)]
        return {"code": result.exit_code, "steps": done, "modules": here}

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                found = work(asked["words"], asked["at"], asked["half"])
                with os.fdopen(writer, "w") as out:
                    json.dump(found, out)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            text = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told = json.loads(text) if text else {"code": code or 1, "steps": asked["at"], "modules": []}
        for name in told["modules"]:  # what one run imported the next ones need not import once more
            with suppress(Exception):
                importlib.import_module(name)
        print(json.dumps([told["code"], told["steps"]]), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], "promotes" in sys.argv[2:])
