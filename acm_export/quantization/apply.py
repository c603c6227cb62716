"""Compute the scales of everything selected, one layer at a time, and rewrite the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from acm_export.base import interrupts
from acm_export.onnx_file.quantization.dense import rewrite_site, scale_element
from acm_export.onnx_file.quantization.edit import GraphEdit
from acm_export.onnx_file.quantization.embeddings import QuantizedTable, rewrite_embedding
from acm_export.onnx_file.quantization.learners import QuantizedLearners, rewrite_learners
from acm_export.quantization.dense_scales import dynamic_site, relative_error, static_site
from acm_export.quantization.float_learners import FloatLearners
from acm_export.quantization.learner_scales import dynamic_learners, static_learners
from acm_export.quantization.result import QuantizedPart
from acm_export.quantization.scales import quantize_axis

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from acm_export.onnx_file.manifest import LayerEntry, Manifest
    from acm_export.onnx_file.quantization.learners import LearnerWeights
    from acm_export.onnx_file.quantization.linears import Site
    from acm_export.onnx_file.quantization.view import GraphView
    from acm_export.quantization.learner_scales import LayerResult
    from acm_export.quantization.options import Options
    from acm_export.quantization.selection import Selection
    from acm_export.quantization.statistics import Statistics


class Application:
    """Quantises what was selected in a model.

    Args:
        model: Model to change, whose thresholds are initializers.
        manifest: Manifest of the model.
        view: View of its graph.
        statistics: What was seen in the data; None without data.
        options: How to quantise.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        manifest: Manifest,
        view: GraphView,
        statistics: Statistics | None,
        options: Options,
    ) -> None:
        self._model, self._manifest, self._view = model, manifest, view
        self._statistics, self._options = statistics, options
        self._edit = GraphEdit(model)
        self.parts: list[QuantizedPart] = []
        self.notes: list[str] = []

    def run(self, selection: Selection, on_step: Callable[[], None]) -> Manifest:
        """Quantise; returns the manifest with the layers marked as int8.

        Args:
            selection: What to quantise.
            on_step: Called after every layer and site.

        Raises:
            QuantizationError: The data set no scale for a layer.
        """
        last = {tensor: len(names) for tensor, names in selection.readers().items()}
        rewritten: dict[str, QuantizedLearners] = {}
        for layer, weights in selection.layers:
            interrupts.check()
            result = self._layer(layer, weights)
            rewritten[layer.name] = result.learners
            self.parts.append(QuantizedPart(layer.name, "learners", result.error))
            if result.unused:
                numbers = ", ".join(map(str, result.unused))
                self.notes.append(
                    f"{layer.name}: the hidden values of learners {numbers} are 0 for every sampled token"
                )
            self._release(weights.x, last, 1)
            on_step()
        rewrite_learners(self._model, rewritten, self._edit, dynamic=self._options.dynamic)
        for site in selection.sites:
            interrupts.check()
            self._site(site)
            self._release(site.x, last, len(site.linears))
            on_step()
        for table in selection.embeddings:
            self._embedding(table)
        self._edit.apply()
        int8 = {layer.name for layer, _ in selection.layers}
        layers = tuple(
            replace(layer, activations=self._options.activations) if layer.name in int8 else layer
            for layer in self._manifest.layers
        )
        return self._manifest.replaced(layers=layers)

    def _layer(self, layer: LayerEntry, names: LearnerWeights) -> LayerResult:
        read = self._view.read
        weights = FloatLearners(
            read(names.w1),
            read(names.b1),
            read(names.w2),
            read(names.b2),
            v1=None if names.v1 is None else read(names.v1),
            c1=None if names.c1 is None else read(names.c1),
        )
        seen = None if self._statistics is None else self._statistics.of(names.x, layer.name)
        if seen is None or self._options.dynamic:
            return dynamic_learners(weights, layer.signature, seen, self._options)
        return static_learners(weights, layer.signature, seen, self._options)

    def _site(self, site: Site) -> None:
        read = self._view.read
        weights = {linear.weight: read(linear.weight) for linear in site.linears}
        biases = {linear.weight: read(linear.bias) for linear in site.linears if linear.bias}
        biases = {w: b for w, b in biases.items() if self._owns_bias(site, w)}
        seen = None if self._statistics is None else self._statistics.of(site.x)
        foldable = site.norm is not None
        if seen is None or self._options.dynamic:
            result = dynamic_site(weights, seen, self._options, foldable=foldable)
        else:
            element = self._view.element_type(site.linears[0].weight)
            dtype = tensor_dtype_to_np_dtype(scale_element(element, self._manifest.opset, dynamic=False))
            result = static_site(weights, biases, seen, self._options, foldable=foldable, dtype=dtype)
        rewrite_site(site, result.scales, self._view, self._edit, self._manifest.opset)
        self.parts += [QuantizedPart(name, "linear", error) for name, error in result.errors.items()]

    def _owns_bias(self, site: Site, weight: str) -> bool:
        """Whether only this layer reads its bias, so that it may be corrected."""
        bias = next(linear.bias for linear in site.linears if linear.weight == weight)
        return bias is not None and len(self._view.readers(bias)) == 1 and bias not in self._view.outputs

    def _embedding(self, table: str) -> None:
        values = self._view.read(table)
        dtype = tensor_dtype_to_np_dtype(self._view.element_type(table))
        rows, scale = quantize_axis(values, 127, 1, dtype)
        quantized = QuantizedTable(rows, scale[:, None])
        rewrite_embedding(table, quantized, self._view, self._edit)
        error = relative_error(np.asarray(rows * quantized.scale, np.float32), values)
        self.parts.append(QuantizedPart(table, "embedding", error))

    def _release(self, tensor: str, last: dict[str, int], done: int) -> None:
        last[tensor] -= done
        if not last[tensor] and self._statistics is not None:
            self._statistics.forget(tensor)
