"""Compare an engine with the portable file before the engine is written."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import AcmWarning, EngineError, MissingDependencyError
from acm_export.data.batches import graph_inputs
from acm_export.engine.agreement import Agreement, Reference, agreement
from acm_export.engine.passport import Comparison
from acm_export.engine.trial_inputs import batches
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.manifest import Setting, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.thresholds import setting_thresholds
from acm_export.runtimes.runnable import open_runnable, runnable_copy
from acm_export.runtimes.session import own_outputs, tap_gate_logits
from acm_export.verification.report import INT8_MARGIN_TOLERANCE, MARGIN_TOLERANCE, OUTPUT_TOLERANCE
from acm_export.verification.settings import uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.engine.prepare import TensorRTModel
    from acm_export.engine.profiles import Profile
    from acm_export.engine.runtime import LoadedEngine


INT8_ENGINE_TOLERANCE = 5e-2
"""As ``OUTPUT_TOLERANCE``, between an int8 engine and its file: TensorRT multiplies by the reciprocal of a scale where
ONNX Runtime divides, so values next to a half go to different integers."""


@dataclass(frozen=True)
class CheckSetting:
    """A budget or thresholds to compare at.

    Args:
        feeds: Inputs of the engine that set them; empty for an engine with constant thresholds.
        thresholds: The same setting as thresholds of the portable file, by layer.
    """

    feeds: Arrays
    thresholds: Mapping[str, NDArray[np.float32]]


class PortableFile:
    """The file that an engine was built from, in ONNX Runtime on the CPU, with counts and gate logits as outputs.

    Args:
        path: An ONNX file for any target.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelFileError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        model = read_model(path)
        manifest = read_manifest(model, path)
        self._layers = manifest.layers
        self.outputs = own_outputs(model)
        copy, _ = runnable_copy(model, manifest, path.parent)
        self._logits = tap_gate_logits(copy)
        self._session, _ = open_runnable(copy, manifest, path.parent, lean=True)

    def run(self, feeds: Arrays, thresholds: Mapping[str, NDArray[np.float32]]) -> Reference:
        """Run once, with thresholds float32 ``[N]`` by layer."""
        inputs = {layer.thresholds: thresholds[layer.name] for layer in self._layers}
        ran = self._session.run(feeds | inputs)
        return Reference(
            {name: ran[name] for name in self.outputs},
            {layer.name: ran[f"counts/{layer.name}"] for layer in self._layers},
            {layer.name: ran[self._logits[layer.name]] for layer in self._layers},
            thresholds,
        )


class EngineCheck:
    """Compares an engine with its file. Created before the engine is built, so that unusable data fail early.

    Args:
        prepared: The model that the engine is built from.
        profiles: Shapes of the inputs with a dynamic dimension.
        open_inputs: Opens the user's data for the inputs of the model; None for random inputs.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelFileError: ONNX Runtime cannot load the file.
        UsageError: The data does not fit the model or the profile.
    """

    def __init__(
        self,
        prepared: TensorRTModel,
        profiles: Mapping[str, Profile],
        open_inputs: Callable[[tuple[GraphInput, ...]], Dataset] | None = None,
    ) -> None:
        self._prepared = prepared
        try:
            self._portable = PortableFile(prepared.source)
        except MissingDependencyError as error:
            reason = f"the comparison with the portable file needs ONNX Runtime: {error}"
            raise MissingDependencyError(reason, f"{error.hint}; or skip the comparison with --no-check") from error
        inputs = data_inputs(prepared)
        self._batches = batches(inputs, profiles, open_inputs(inputs) if open_inputs else None)
        self._settings = tuple(check_settings(prepared))

    def run(self, engine: LoadedEngine) -> Comparison:
        """Run engine and file at every setting on every batch, and compare them.

        Raises:
            EngineError: The engine does not compute what the file computes.
        """
        manifest = self._prepared.manifest
        context = engine.context()
        try:
            found = [
                agreement(
                    self._portable.run(feeds, setting.thresholds),
                    context.run(feeds | setting.feeds)[0],
                    manifest.layers,
                )
                for feeds in self._batches
                for setting in self._settings
            ]
        finally:
            context.close()
        return judge(found, manifest.dtype, len(self._settings), int8=manifest.quantization is not None)


def data_inputs(prepared: TensorRTModel) -> tuple[GraphInput, ...]:
    """Inputs that data feed: all except the budget and thresholds."""
    added = {INPUT, *(layer.thresholds for layer in prepared.manifest.layers)}
    return graph_inputs(prepared.model, tuple(name for name in prepared.inputs if name not in added))


def judge(found: list[Agreement], dtype: str, settings: int, *, int8: bool = False) -> Comparison:
    """Summarize agreements, reject what rounding cannot explain, and warn about what could not be measured.

    Args:
        found: Agreement on every batch at every setting.
        dtype: Dtype of the file, which decides the tolerances (verification/report.py).
        settings: Number of settings.
        int8: Whether the file is quantised; then rounding to int8 decides the tolerances.

    Raises:
        EngineError: Samples with equal learner counts differ by more than the tolerance, or one with a different count
            has a margin that is not close to its threshold. For an engine without counts: most samples differ.
    """
    errors = [error for one in found for error in one.errors]
    tolerance = INT8_ENGINE_TOLERANCE if int8 else OUTPUT_TOLERANCE[dtype]
    allowed_distance = INT8_MARGIN_TOLERANCE if int8 else MARGIN_TOLERANCE[dtype]
    precision = "int8" if int8 else dtype
    has_counts = all(one.rerouted is not None for one in found)
    worst = max((math.inf if math.isnan(error) else error for error in errors), default=None)
    beyond = [error for error in errors if not error <= tolerance]
    distance = max((one.margin_distance for one in found), default=0.0)
    samples = sum(one.samples for one in found)
    comparison = Comparison(
        settings=settings,
        error=None if worst is None or math.isinf(worst) else worst,
        samples=samples,
        alike=len(errors),
        routed_differently=sum(one.rerouted or 0 for one in found) if has_counts else None,
        tokens=sum(one.tokens for one in found),
    )
    if any(math.isnan(error) for error in errors):
        raise EngineError("the engine outputs NaN or infinity where the portable file does not", _KEEP)
    if (has_counts and beyond) or 2 * len(beyond) > len(errors):
        raise EngineError(
            f"outputs of the engine differ by {max(beyond):.2e} of the largest value; {len(beyond)} of {len(errors)} "
            f"samples exceed the tolerance of {tolerance:g} for {precision}",
            _KEEP,
        )
    if distance > allowed_distance:
        raise EngineError(
            f"the engine routes a token differently although its margin is {distance:.2g} standard deviations from its "
            f"threshold; rounding in {precision} explains at most {allowed_distance:g}",
            _KEEP,
        )
    if not has_counts and beyond:
        _warn(
            f"{len(beyond)} of {samples} samples differ by more than {tolerance:g}: without learner counts, routing "
            "differences cannot be distinguished from errors"
        )
    if not errors:
        _warn(f"every one of {samples} samples has a token that was routed differently: no error was measured")
    return comparison


_KEEP = "build with --no-check to keep the engine; --tf32 or other shapes may change the result"


def _warn(text: str) -> None:
    warnings.warn(text, AcmWarning, stacklevel=3)


def check_settings(prepared: TensorRTModel) -> Iterator[CheckSetting]:
    """The settings to compare at.

    With a budget input: smallest, middle and largest budget of the table. With threshold inputs: the stored thresholds,
    all learners and none. Otherwise only the stored thresholds.
    """
    manifest = prepared.manifest
    bound, layers = manifest.setting.max_learners, manifest.layers
    if manifest.calibration is not None and manifest.budget_input:
        table = manifest.calibration.table
        for budget in (table.smallest, (table.smallest + table.largest) / 2, table.largest):
            thresholds = setting_thresholds(manifest.replaced(setting=Setting(None, bound, budget)))
            yield CheckSetting({INPUT: np.array(budget, np.float32)}, thresholds)
        return
    source = read_model(prepared.source)
    stored = stored_thresholds(source, read_manifest(source, prepared.source), prepared.source.parent)
    if not prepared.extra.thresholds:
        yield CheckSetting({}, stored)
        return
    extremes = (uniform(f"τ = {tau}", tau, layers).thresholds for tau in (math.inf, -math.inf))
    for chosen in (stored, *extremes):
        yield CheckSetting({layer.thresholds: chosen[layer.name] for layer in layers}, chosen)
