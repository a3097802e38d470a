"""Definitions that ``tandem infer`` wrote, and what they define."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.inference.infer_source import infer_files

__all__ = ["inferred", "of_records"]

ASKED: dict[str, dict[str, Any]] = {"local_times": {"zone": "Europe/Paris"}, "order_items": {"explode": "items"}}


def inferred(data: Path, name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The text, and what it defines."""
    found = infer_files(data / "events" / name, name=name, data=data, **{**ASKED.get(name, {}), **more})
    values: dict[str, Any] = {}
    text = "\n".join(line for line in found.text.splitlines() if "feast_views" not in line)  # which asks for a module of a repository
    exec(compile(text, f"{name}.py", "exec"), values)
    return found.text, values


def of_records(tmp_path: Path, records: list[dict[str, Any]], name: str = "things") -> tuple[str, dict[str, Any]]:
    folder = tmp_path / "events" / name
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return inferred(tmp_path, name)
