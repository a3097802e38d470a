"""``python -m tandem`` is the command ``tandem``; started as a file, it needs no installation."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import tandem  # noqa: F401  # pins transforms, pipelines and serving to this installation
from pipelines.cli.root import main

if __name__ == "__main__":
    main()
