"""The model that ``tandem init`` writes, as people change it: request fields and features of any kind, and few of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.demo.scaffold import scaffold

NUMBER, TEXT = np.zeros((4, 1), np.float32), np.full((4, 1), b"a", dtype=object)


@pytest.mark.parametrize(
    "columns",
    [{"amount": NUMBER}, {"country_id": np.zeros((4, 1), np.int64)}, {"plan": TEXT}, {"plan": TEXT, "amount": NUMBER, "sum": NUMBER}],
    ids=["a number", "a word by its id", "a text", "several"],
)
def test_the_network_is_built_of_whatever_columns_there_are(tmp_path, columns):
    scaffold(tmp_path / "repo")
    path = tmp_path / "repo" / "model.py"
    module: dict = {"__name__": "model"}
    exec(compile(path.read_text(), str(path), "exec"), module)
    import tensorflow as tf

    job = SimpleNamespace(
        moments=dict, arrays=lambda split: [{n: tf.constant(v) for n, v in columns.items()}], vocabulary_size=lambda name: 3, params={}
    )
    model = module["build"](job)
    assert model({n: tf.constant(v) for n, v in columns.items()}).shape == (4, 1)
