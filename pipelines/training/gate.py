"""The last word on a model: two verdicts of TFMA become one blessing, and a blessed model is pushed in one step."""

# TFX and Beam declare their classes at run time or not at all.
# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call,call-overload"
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor as pusher_executor
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter
from tfx.utils import json_utils

from pipelines.lake import layout
from pipelines.training.evaluate_here import EvaluateHere
from serving.model_files import FILES, hash_files, sign

__all__ = ["AtomicPush", "Comparison", "Gate", "Verdict"]


class Verdict(types.Artifact):
    """The outcome of one comparison. No ModelBlessing: only the gate blesses, so only pushed models become baselines."""

    TYPE_NAME = "TandemVerdict"


class ComparisonSpec(standard_component_specs.EvaluatorSpec):
    """TFX's Evaluator with a Verdict in the place of the ModelBlessing."""

    OUTPUTS = {  # noqa: RUF012  (as TFX declares it)
        **standard_component_specs.EvaluatorSpec.OUTPUTS,
        standard_component_specs.BLESSING_KEY: ChannelParameter(type=Verdict),
    }


class Comparison(base_beam_component.BaseBeamComponent):
    """TFX's Evaluator (TFMA inside) that gives a verdict on ``model`` against ``baseline_model``."""

    SPEC_CLASS = ComparisonSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluateHere)

    def __init__(self, examples: Any, model: Any, baseline_model: Any, eval_config: Any, schema: Any, splits: list[str]) -> None:
        super().__init__(
            spec=ComparisonSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                eval_config=eval_config,
                schema=schema,
                example_splits=json_utils.dumps(splits),
                fairness_indicator_thresholds="null",
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=Verdict),
            )
        )


@component
def Gate(
    model: InputArtifact[standard_artifacts.Model],
    against_blessed: InputArtifact[Verdict],
    against_plain: InputArtifact[Verdict],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
) -> None:
    """Blesses ``model`` if both verdicts do."""
    good = all(v.get_int_custom_property("blessed") == 1 for v in (against_blessed, against_plain))
    blessing.set_int_custom_property("blessed", int(good))
    blessing.set_int_custom_property("current_model_id", model.id)
    blessing.set_string_custom_property("current_model", model.uri)
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("BLESSED" if good else "NOT_BLESSED")).touch()


class AtomicPush(pusher_executor.Executor):
    """Pushes to ``<base>/<last version + 1>`` by one rename, with ``tandem.json`` beside ``saved_model.pb``."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes the model if it is blessed; a killed push leaves a dot folder that nobody serves and the next push removes."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        config = json_utils.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        base, source = Path(config["base"]), self.GetModelPath(input_dict)
        spec = json.loads(config["spec"])
        base.mkdir(parents=True, exist_ok=True)
        for left_over in base.glob(".push-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        work = base / f".push-{os.getpid()}"
        shutil.copytree(source, work)
        files = hash_files(work)
        while True:
            version = 1 + max((int(p.name) for p in base.iterdir() if p.name.isdecimal()), default=0)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            (work / layout.SPEC_FILE).write_text(
                json.dumps({**spec, "version": version, "created": created, FILES: files}, indent=1) + "\n", "utf-8"
            )
            sign(work)
            target = base / str(version)
            try:
                os.rename(work, target)
                break
            except OSError:
                if not target.exists():
                    raise
        Path(pushed.uri).mkdir(parents=True, exist_ok=True)
        shutil.copy(target / layout.SPEC_FILE, pushed.uri)
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=str(version))
