"""A session of a file with thresholds as inputs and any of its tensors as outputs; the file may be dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from acm_export.data.token_masks import MASK, TokenMasks
from acm_export.onnx_file.inspection import check_graph
from acm_export.onnx_file.manifest import Manifest, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.thresholds import by_layer
from acm_export.runtimes.onnx_runtime import CpuSession, Session
from acm_export.runtimes.runnable import open_runnable, runnable_copy
from acm_export.runtimes.session import batch_inputs, own_outputs, tap_gate_logits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays


class ObservingSession:
    """A session that also returns tensors inside the graph.

    Args:
        path: Path of an exported file, for any target.
        tensors: Names of tensors to return.
        runtime: Session class that runs the file.

    Raises:
        ModelFileError: The file is broken, was not written by acm-export, or has a scalar input.
    """

    def __init__(self, path: Path, tensors: Sequence[str] = (), runtime: type[Session] = CpuSession) -> None:
        model = read_model(path)
        self.manifest: Manifest = read_manifest(model, path)
        check_graph(model, self.manifest, path)
        self.layers = self.manifest.layers
        self.inputs = batch_inputs(model, self.manifest, path)
        self.outputs = own_outputs(model)
        copy, self.notes = runnable_copy(model, self.manifest, path.parent)
        self._logits = list(tap_gate_logits(copy).values())
        elements = {value.name: value.type.tensor_type.elem_type for value in copy.graph.value_info}
        known = {value.name for value in copy.graph.output}
        copy.graph.output.extend(
            helper.make_tensor_value_info(name, elements[name], None) for name in tensors if name not in known
        )
        self._session, session_notes = open_runnable(copy, self.manifest, path.parent, session=runtime)
        self.notes += session_notes
        self.name = self._session.name

    def run(
        self, feeds: Arrays, thresholds: NDArray[np.float32], tensors: Sequence[str] = ()
    ) -> tuple[Arrays, TokenMasks]:
        """Run the model once.

        Args:
            feeds: Inputs of the model.
            thresholds: Thresholds of all layers, concatenated; empty for a dense file.
            tensors: Names of tensors to return; the outputs and ``counts/<layer>`` are always there.

        Returns:
            Arrays by name, and the masks of tokens that are not padding.
        """
        values = {f"{name}.thresholds": part for name, part in self._by_layer(thresholds).items()}
        logits = self._logits if MASK in feeds else []
        names = [*self.outputs, *(f"counts/{layer.name}" for layer in self.layers), *logits, *tensors]
        ran = self._session.run(feeds | values, list(dict.fromkeys(names)))
        return ran, TokenMasks.of_batch(feeds, (ran[name] for name in logits))

    def _by_layer(self, thresholds: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return by_layer(self.layers, thresholds) if self.layers else {}
