"""What the entry points of MLproject start: ``tandem -m pipelines.cli.mlproject train repo=DIR`` is ``tandem train --repo=DIR``.

MLflow gives every parameter that MLproject names, also those that nobody set. Here they become flags, and empty ones none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from transforms.errors import ConfigError

__all__ = ["flags", "main"]

SWITCHES = ("events",)
WHOLE = ("seed", "port", "jobs")


def flags(words: Sequence[str]) -> list[str]:
    """``name=value`` words as flags: empty ones left out; ``set`` may hold several, parted by ``;`` or blanks. Raises ConfigError."""
    out = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r}: write name=value")
        if not value:
            continue
        if name in SWITCHES:
            if value.lower() not in ("true", "false", "1", "0"):
                raise ConfigError(f"{name}={value}: write true or false")
            out += [f"--{name}"] if value.lower() in ("true", "1") else []
        elif name == "set":
            out += [f"--set={one}" for one in value.replace(";", " ").split()]
        elif name in WHOLE:
            try:
                number = float(value)
            except ValueError:
                number = 0.5
            if number != int(number):
                raise ConfigError(f"{name}={value} is not a whole number; correct -P {name}=...")
            out.append(f"--{name}={int(number)}")
        else:
            out.append(f"--{name}={value}")
    return out


def main(arguments: Sequence[str]) -> None:
    """Run the command in this process; the run is sent to MLflow before it ends, so that ``mlflow run`` leaves it whole."""
    from pipelines.cli import root as cli

    os.environ.setdefault("TANDEM_TRACKING__WAIT_SECONDS", "120")
    try:
        sys.argv = ["tandem", arguments[0], *flags(arguments[1:])]
    except ConfigError as error:
        sys.exit(cli.fail(error))
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
