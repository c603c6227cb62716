"""Run an exported file with thresholds as inputs, and with gate logits and learner counts as outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from acm_export.base.errors import ModelFileError
from acm_export.data.batches import GraphInput, graph_inputs
from acm_export.data.token_masks import MASK, TokenMasks
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.inspection import check_graph, check_has_layers
from acm_export.onnx_file.manifest import Manifest, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.onnx_file.thresholds import by_layer
from acm_export.runtimes.onnx_runtime import CpuSession, Session
from acm_export.runtimes.runnable import open_runnable, runnable_copy

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays


class TappedSession:
    """A session whose thresholds are inputs, so that it serves every threshold setting.

    Args:
        path: Path of an exported file, for any target.
        runtime: Session class that runs the file.

    Raises:
        ModelFileError: The file is broken, was not written by acm-export, or has no gated learners.
    """

    def __init__(self, path: Path, runtime: type[Session] = CpuSession) -> None:
        model = read_model(path)
        self.manifest: Manifest = read_manifest(model, path)
        check_graph(model, self.manifest, path)
        self.layers = self.manifest.layers
        check_has_layers(self.manifest, path)
        if not any(layer.num_learners > layer.min_learners for layer in self.layers):
            raise ModelFileError(f"{path} has no gated learners: every learner always runs, so its budget is always 1")
        self.inputs = batch_inputs(model, self.manifest, path)
        self.outputs = own_outputs(model)
        copy, self.notes = runnable_copy(model, self.manifest, path.parent)
        self._logits = tap_gate_logits(copy)
        self._session, session_notes = open_runnable(copy, self.manifest, path.parent, session=runtime)
        self.notes += session_notes
        self.name = self._session.name

    def run(self, feeds: Arrays, thresholds: NDArray[np.float32]) -> tuple[Arrays, list[NDArray[np.int32]]]:
        """Run the model once.

        Args:
            feeds: Inputs of the model.
            thresholds: Thresholds of all layers, concatenated.

        Returns:
            The model's outputs, and the learner counts of each layer.
        """
        counts = [f"counts/{layer.name}" for layer in self.layers]
        ran = self._run(feeds, thresholds, counts)
        return {name: ran[name] for name in self.outputs}, [ran[name] for name in counts]

    def run_with_masks(
        self, feeds: Arrays, thresholds: NDArray[np.float32]
    ) -> tuple[Arrays, list[NDArray[np.int32]], TokenMasks]:
        """Run the model once; returns the model's outputs, the learner counts of each layer, and the token masks."""
        if MASK not in feeds:
            return *self.run(feeds, thresholds), TokenMasks({})
        counts = [f"counts/{layer.name}" for layer in self.layers]
        logits = [self._logits[layer.name] for layer in self.layers]
        ran = self._run(feeds, thresholds, [*counts, *logits])
        masks = TokenMasks.of_batch(feeds, (ran[name] for name in logits))
        return {name: ran[name] for name in self.outputs}, [ran[name] for name in counts], masks

    def run_with_logits(
        self, feeds: Arrays, thresholds: NDArray[np.float32]
    ) -> tuple[Arrays, list[NDArray[np.float32]]]:
        """Run the model once; returns the model's outputs and the gate logits ``[..., C]`` of each layer."""
        logits = [self._logits[layer.name] for layer in self.layers]
        ran = self._run(feeds, thresholds, logits)
        return {name: ran[name] for name in self.outputs}, [ran[name] for name in logits]

    @property
    def num_thresholds(self) -> int:
        """Total number of learners in all layers."""
        return sum(layer.num_learners for layer in self.layers)

    def _run(self, feeds: Arrays, thresholds: NDArray[np.float32], more: list[str]) -> Arrays:
        values = {f"{name}.thresholds": part for name, part in by_layer(self.layers, thresholds).items()}
        return self._session.run(feeds | values, [*self.outputs, *more])


def batch_inputs(model: onnx.ModelProto, manifest: Manifest, path: Path) -> tuple[GraphInput, ...]:
    """The inputs that samples fill: all but thresholds and the budget.

    Args:
        model: Model of the file.
        manifest: Manifest of the file.
        path: Path of the file, for errors.

    Raises:
        ModelFileError: An input has no batch axis.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {INPUT} if manifest.budget_input else set()
    inputs = graph_inputs(model, tuple(value.name for value in model.graph.input if value.name not in held))
    if scalars := [value.name for value in inputs if not value.shape]:
        raise ModelFileError(
            f"{path} has the scalar input {scalars[0]}; every input needs a batch axis",
            "export the model without this input, or give it a batch axis",
        )
    return inputs


def own_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of the model's outputs, without learner counts."""
    return [value.name for value in model.graph.output if not value.name.startswith("counts/")]


def tap_gate_logits(model: onnx.ModelProto) -> dict[str, str]:
    """Add the gate logits of each layer as an output; returns the names of these outputs, by layer."""
    names = {node.name: node.input[1] for node in gated_learners_nodes(model)}
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.values() if name not in known
    )
    return names
