"""``tandem plan`` tells how a model is defined otherwise than its version was trained, and what to run; nothing of TensorFlow is loaded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.lake import runs
from pipelines.planning.plan_text import lines, summary, to_dict
from tests.unit.plan_world import FILES, ROOT, Shop, make_shop

MODELS = """
from datetime import timedelta

from tandem.pipelines.training.definition import Model
from tandem.transforms.definitions import Field

late = Model(
    name="late", spine="asked:spine", label="paid", entity_keys=["shop"],
    request_fields=[Field("channel", "string"), Field("amount", "float64")],
    features=["shop_orders:count_1h", "shop_orders:count_24h"], label_delay=timedelta(hours=1),
)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """One whose rows are right, with a model of which version 1 is pushed."""
    made = make_shop(tmp_path)
    made.write(
        {"tandem.yaml": FILES["tandem.yaml"] + "models: ['models:late']\n", "models.py": MODELS, "asked.py": "def spine(d, s, e): ...\n"}
    )
    made.batch()
    made.apply()
    made.load()
    trained(made, 1)
    return made


def trained(shop: Shop, version: int) -> str:
    """A training of the model as it is defined now, and the version that it pushed."""
    sys.modules.pop("models", None)
    repo = shop.repo()
    model = repo.attribute("models:late")
    files = {f"repo/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in shop.folder.glob("*.py")}
    run = runs.begin(shop.data, "train", {"version": version}, datetime.now(UTC))
    run.save(
        definitions={"model late": json.loads(json.dumps(model.canonical()))}, code={"files": files}, model="late",
        range=["2024-05-01T00:00:00+00:00", "2024-05-03T00:00:00+00:00"], status="complete", version=version,
    )  # fmt: skip
    folder = shop.data / "models/late" / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text("")
    (folder / "tandem.json").write_text(json.dumps({"fingerprints": {"shop_orders": shop.applied("shop_orders")}, "run": run.id}))
    return run.id


def promoted(shop: Shop, version: int) -> None:
    history = [{"n": 1, "action": "promote", "champion": version, "version": version}]
    aliases = {"champion": version, "challenger": None, "history": history}
    (shop.data / "models/late/ALIASES.json").write_text(json.dumps(aliases))


EDITS = {
    "a label": ('label="paid"', 'label="kept"', "label 'paid' -> 'kept'"),
    "a delay": ("timedelta(hours=1)", "timedelta(days=2)", "label_delay 1h -> 2d"),
    "a feature more": ('_24h"]', '_24h", "shop_orders:amount_mean_1h"]', "feature shop_orders:amount_mean_1h added"),
    "a feature less": (', "shop_orders:count_24h"]', "]", "feature shop_orders:count_24h removed"),
    "a service": (
        '["shop_orders:count_1h", "shop_orders:count_24h"]', '"l2"', "features shop_orders:count_1h, shop_orders:count_24h -> 'l2'",
    ),
    "a field more": ('Field("amount", "float64")', 'Field("amount", "float64"), Field("n", "int64")', "request field 'n' added"),
    "a field's type": ('"amount", "float64")', '"amount", "int64", required=True)', "request field 'amount': float64 -> int64, required"),
    "the split": ("label_delay=", "split=(0.5, 0.8), label_delay=", "split 0.7, 0.85 -> 0.5, 0.8"),
    "the key": ('entity_keys=["shop"]', 'entity_keys=["shop", "id"]', "entity_keys shop -> shop, id"),
    "a weight": ('label="paid"', 'label="paid", weight="w"', "weight none -> 'w'"),
}  # fmt: skip


def test_a_model_as_it_was_trained_is_no_change(shop: Shop) -> None:
    plan = shop.plan()
    assert not plan.changes and plan.redefined == () and "Models" not in "\n".join(lines(plan))


@pytest.mark.parametrize("name", EDITS)
def test_what_differs_is_told_and_what_to_run(shop: Shop, name: str) -> None:
    old, new, told = EDITS[name]
    shop.replace("models.py", old, new)
    sys.modules.pop("models", None)
    plan = shop.plan()
    (change,) = plan.redefined
    assert change.changes == (told,) and change.code == ("models.py",) and change.version is not None and change.version.version == 1
    assert plan.commands == ("tandem train --model late --start 2024-05-01 --end 2024-05-03", "tandem promote --model late")
    assert f"      {told}" in "\n".join(lines(plan)) and summary(plan).endswith("; nothing is recomputed; 1 model redefined.")
    assert to_dict(plan)["models_redefined"][0]["changes"] == [told]


def test_a_version_of_the_new_definition_is_to_be_promoted_and_then_nothing_is_left(shop: Shop) -> None:
    promoted(shop, 1)
    shop.replace("models.py", 'label="paid"', 'label="kept"')
    trained(shop, 2)
    plan = shop.plan()
    (change,) = plan.redefined
    assert change.trained == 2 and plan.commands == ("tandem promote --model late",)
    promoted(shop, 2)
    assert shop.plan().redefined == ()


def test_code_that_changed_is_told_and_asks_for_nothing(shop: Shop) -> None:
    shop.write({"model.py": "units = 64\n"})
    plan = shop.plan()
    assert "= late version 1 (champion): model.py changed since it was trained" in "\n".join(lines(plan)) and not plan.changes


def test_a_model_that_cannot_be_read_is_told(shop: Shop) -> None:
    shop.write({"models.py": "late = nothing\n"})
    sys.modules.pop("models", None)
    plan = shop.plan()
    assert "! models:late cannot be read: " in "\n".join(lines(plan)) and not plan.changes


def test_no_tensorflow_is_loaded(shop: Shop) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pipelines.planning.project_plan import make_plan\nfrom pipelines.project.repository import load_repo\n"
        "from pathlib import Path\n"
        f"make_plan(load_repo(Path({str(shop.folder)!r}))); assert 'tensorflow' not in sys.modules and 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
