"""Everything below is slow and needs programs that ``make test`` does without: ``make scale`` runs it."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test here is marked ``scale`` and ``slow``, and may take an hour: the first one builds an image."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.scale)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(7200))
