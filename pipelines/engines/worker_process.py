"""Beam's worker, as :mod:`pipelines.engines.worker_boot` becomes it: it ends with the process that started it, however that ends.

A task manager that was killed would leave its workers behind, which wait for it; those of a stream would go on with what they have.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from apache_beam.runners.worker import sdk_worker_main

__all__ = ["end_with", "main"]

_SECONDS = 1.0


def end_with(parent: int) -> None:
    """End this process as soon as ``parent`` is not its parent any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def main() -> None:
    """Serve one runner."""
    end_with(os.getppid())
    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
