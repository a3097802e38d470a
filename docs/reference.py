"""Builds the API reference from the docstrings: ``python docs/reference.py FOLDER`` (``make docs``). A warning is an error.

What is in it is the public interface: the names in ``__all__`` of these modules, as ``tandem.<module>`` too. All else may change.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

THEME = Path(__file__).with_name("reference_theme")
"""What replaces parts of pdoc's pages: an index that says what this is, references without Sphinx's signs, a dark theme."""

PUBLIC = (
    "transforms.errors",
    "transforms.definitions",
    "transforms.contract",
    "transforms.aggregates",
    "transforms.functions",
    "transforms.functions.aggregate",
    "transforms.functions.arrays",
    "transforms.reasons",
    "transforms.tables",
    "transforms.windows",
    "transforms.schemas",
    "transforms.graph",
    "transforms.preprocessing",
    "serving.online_store.base",
    "serving.online_store.feature_rows",
    "serving.online_store.sqlite",
    "serving.online_store.redis",
    "serving.offline_store",
    "serving.feast_objects",
    "serving.request_log",
    "serving.settings",
    "pipelines.project.config",
    "pipelines.project.repository",
    "pipelines.sources.event_files",
    "pipelines.feature_store.views",
    "pipelines.training.definition",
    "pipelines.training.training_job",
    "pipelines.sources.broker",
    "pipelines.sources.memory",
    "pipelines.sources.formats.record_format",
    "pipelines.sources.file_formats.file_format",
    "pipelines.sources.tables.table_reader",
    "pipelines.streaming.engines.stream_engine",
    "pipelines.streaming.stages.stream_graph",
    "pipelines.streaming.state.job_spec",
    "pipelines.tracking.tracker",
    "pipelines.tracking.tracked_run",
    "pipelines.alerting.receiver",
    "pipelines.workflow",
    "tandem.testing.aggregates",
    "tandem.testing.online_store",
    "tandem.testing.store_bench",
    "tandem.testing.formats",
    "tandem.testing.file_formats",
    "tandem.testing.tables",
    "tandem.testing.broker",
    "tandem.testing.engine",
    "tandem.testing.tracker",
    "tandem.testing.alert_receiver",
)


def build(folder: Path) -> None:
    """Write one page per public module, an index and a search index. Raises the first warning of pdoc as an error."""
    import pdoc

    from transforms.tensorflow_settings import settle_tensorflow

    settle_tensorflow()
    print(f"{len(PUBLIC)} modules: importing them, TensorFlow and Feast too, takes a quarter of a minute")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # those of the libraries that the modules import
        warnings.filterwarnings("error", module=r"pdoc(\..*)?$")
        # A subclass's module need not import what its parent's fields are annotated with; the page shows them as they are written.
        warnings.filterwarnings("ignore", "Error parsing type annotation", module=r"pdoc(\..*)?$")
        pdoc.render.configure(docformat="restructuredtext", show_source=False, footer_text="Tandem", template_directory=THEME)
        pdoc.pdoc(*PUBLIC, output_directory=folder)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    build(Path(sys.argv[1]))
