"""``python -m serving '{"feature_repo": ..., "models": ..., "graphs": ...}'``: one server, with its settings as JSON."""

from __future__ import annotations

import sys

from serving.app import run
from serving.settings import ServingSettings

if __name__ == "__main__":
    run(ServingSettings.model_validate_json(sys.argv[1]))
