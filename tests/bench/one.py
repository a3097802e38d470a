"""One part of the benchmark in a process of its own: ``python -m tests.bench.one NAME --out FILE [--quick] [--way ...]``.

Its tables, or the one line that says why there are none, come into the file as JSON: what a part breaks, keeps in memory and imports is its
own affair.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from tandem.quick_imports import quicken_imports
from transforms.tensorflow_settings import settle_tensorflow


def main() -> int:
    """Exit code 0 where the part was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.one")
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--way", action="append", default=[])
    given = parser.parse_args()
    quicken_imports()
    settle_tensorflow()
    said: dict[str, Any] = {}
    try:
        ways = {"only": given.way} if given.way else {}
        made = importlib.import_module(f"tests.bench.{given.name}").run(quick=given.quick, **ways)
        said["tables"] = [dataclasses.asdict(part) for part in made]
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        said["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    given.out.write_text(json.dumps(said))
    return 1 if "error" in said else 0


if __name__ == "__main__":
    sys.exit(main())
