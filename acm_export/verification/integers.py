"""Check the integer steps of int8 layers against their definition (docs/op.md, "The int8 operator").

The comparison with PyTorch cannot tell a wrong kernel from rounding to int8. So the tokens and gate logits of each int8
layer, taken from the running file, go through the layer alone, with a portable body that also returns its integers.
Counts, quantised tokens and sums must be exact; a hidden value may differ by 1, or by the error of the activation if
that is more. The file's own output of the layer is compared with the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from acm_export.onnx_file.model_file import tensor_values
from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.op.precision import PRECISIONS
from acm_export.op.quantized_body import quantized_body, tap_names
from acm_export.op.quantized_reference import hidden_inputs, quantize_hidden, quantize_tokens
from acm_export.op.quantized_signature import QuantizedSignature
from acm_export.op.reference import activate
from acm_export.op.routing import learner_counts
from acm_export.op.signature import DOMAIN, OUTPUTS, VERSION
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.onnx_file.manifest import LayerEntry, Manifest

LARGEST_TERM_TOLERANCE = 1e-5
"""Accepted error of y given its integers, relative to the largest term of its sum, which is added in float32."""

_MOST_TOKENS = 512
"""Tokens of a layer that are checked, evenly spread over the data."""

_NEAR_HALF = 1e-3
"""Distance from a half within which float32 activations may round a hidden value to the other side."""

_ACTIVATION_ERROR = 2e-6
"""Error of float32 activations, relative to the larger of 1 and their largest argument. A dynamic scale makes it more
than one integer where all hidden values of a token are about as small."""

_ZERO_POINT = 128  # of the integers that the portable body returns
_LEVELS = 127  # of a dynamic scale


@dataclass(frozen=True)
class LayerIntegers:
    """Violations of the definition in one int8 layer, at one setting.

    Args:
        name: Name of the layer.
        tokens: Number of checked tokens.
        wrong_counts: Tokens whose learner count is not the one that their gate logits and the thresholds give.
        wrong_inputs: Values of the quantised tokens that differ from the definition.
        moved_hidden: Quantised hidden values that differ.
        hidden_distance: Largest difference of a quantised hidden value, beyond the error of float32 activations; at
            most 1 is allowed.
        output_error: Largest error of y given its integers, relative to the largest term of its sum.
    """

    name: str
    tokens: int
    wrong_counts: int
    wrong_inputs: int = 0
    moved_hidden: int = 0
    hidden_distance: int = 0
    output_error: float = 0.0

    @property
    def failure(self) -> str | None:
        """The first violation, as a predicate of the layer, or None."""
        if self.wrong_counts:
            return f"runs {self.wrong_counts} of {self.tokens} tokens with a count that contradicts their gate logits"
        if self.wrong_inputs:
            return f"rounds {self.wrong_inputs} values of {self.tokens} tokens to another integer"
        if self.hidden_distance > 1:
            return f"has a hidden value that is {self.hidden_distance} from its definition; at most 1 is allowed"
        if not self.output_error <= LARGEST_TERM_TOLERANCE:
            return (
                f"has an output that is off by {self.output_error:.3g} of its largest term, tolerance "
                f"{LARGEST_TERM_TOLERANCE:g}"
            )
        return None


class IntegerCheck:
    """Runs the int8 layers of a file one at a time.

    Args:
        model: Runnable copy of the file, which gets the layers' inputs and outputs as further graph outputs.
        manifest: Manifest of the file.
        folder: Folder of the external data.
    """

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, folder: Path) -> None:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = {node.name: node for node in gated_learners_nodes(model)}
        element = PRECISIONS[manifest.dtype].onnx_type
        self._layers = [
            _Int8Layer(layer, layer.signature, nodes[layer.name], tensors, element, manifest.opset, folder)
            for layer in manifest.layers
            if isinstance(layer.signature, QuantizedSignature)
        ]
        known = {value.name for value in (*model.graph.output, *model.graph.input)}
        for layer in self._layers:
            for name, kind in layer.taps.items():
                if name not in known:
                    model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
                    known.add(name)

    def check(self, values: Arrays, thresholds: Mapping[str, NDArray[np.float32]]) -> tuple[LayerIntegers, ...]:
        """Check every int8 layer.

        Args:
            values: Inputs and outputs of one run of the model.
            thresholds: Thresholds of that run, float32 ``[N]``, by layer.
        """
        return tuple(layer.check(values, thresholds[layer.entry.name]) for layer in self._layers)


class _Int8Layer:
    """One layer, alone in a model whose body returns its integers."""

    def __init__(
        self,
        entry: LayerEntry,
        signature: QuantizedSignature,
        node: onnx.NodeProto,
        tensors: Mapping[str, TensorProto],
        element: int,
        opset: int,
        folder: Path,
    ) -> None:
        self.entry, self._signature = entry, signature
        self._x, self._logits = node.input[:2]
        self._y = node.output[0]
        self.taps = {self._x: element, self._logits: TensorProto.FLOAT, self._y: element}
        self._constants = {name: tensors[held] for name, held in zip(signature.inputs[3:], node.input[3:], strict=True)}
        self._folder = folder
        self._model = _one_layer_model(self._constants, signature, element, opset)
        self._session: CpuSession | None = None

    def check(self, values: Arrays, thresholds: NDArray[np.float32]) -> LayerIntegers:
        x, logits, y = (_rows(values[name]) for name in (self._x, self._logits, self._y))
        counts = values[f"counts/{self.entry.name}"].ravel()
        expected = learner_counts(logits, thresholds, self._signature.min_learners)
        picked = np.arange(len(x))[:: -(-len(x) // _MOST_TOKENS) or 1]
        ran = self._run(x[picked], logits[picked], thresholds)
        wrong = int(max((counts != expected).sum(), (ran["counts"] != expected[picked]).sum()))
        if wrong:
            return LayerIntegers(self.entry.name, len(x), wrong)
        constants = {n: tensor_values(t, self._folder) for n, t in self._constants.items()}
        with np.errstate(invalid="ignore", over="ignore"):  # of tokens with NaN or infinity, which are not compared
            return _compare(self.entry.name, self._signature, constants, x[picked], y[picked], ran)

    def _run(self, x: np.ndarray, logits: np.ndarray, thresholds: NDArray[np.float32]) -> Arrays:
        if self._session is None:
            self._session = CpuSession(self._model, self._folder)
        return self._session.run({"x": x, "gate_logits": logits, "thresholds": thresholds})


def _rows(values: np.ndarray) -> np.ndarray:
    """Tokens as rows; also without tokens, where reshape cannot infer their number."""
    return values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])


def _one_layer_model(
    constants: Mapping[str, TensorProto], signature: QuantizedSignature, element: int, opset: int
) -> onnx.ModelProto:
    outputs = [*OUTPUTS, *tap_names(signature)]
    node = helper.make_node(
        signature.function_name, list(signature.inputs), outputs, domain=DOMAIN, **signature.attributes
    )
    tensors = []
    for name, tensor in constants.items():
        renamed = TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = name
        tensors.append(renamed)
    ranks = {"x": 2, "gate_logits": 2, "thresholds": 1}
    kinds = {"y": element, "counts": TensorProto.INT32, "order": TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info(name, element if name == "x" else TensorProto.FLOAT, [None] * rank)
            for name, rank in ranks.items()
        ],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.UINT8), None) for n in outputs],
        tensors,
    )
    return helper.make_model(
        graph,
        ir_version=10,
        functions=[quantized_body(signature, opset, taps=True)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
    )


def _compare(
    name: str, signature: QuantizedSignature, constants: Arrays, x: np.ndarray, y: np.ndarray, ran: Arrays
) -> LayerIntegers:
    """Compare the integers of the layer alone, and its y and the file's, with the definition."""
    counts = ran["counts"]
    values = x.astype(np.float32)
    usable = np.isfinite(values) if signature.dynamic else ~np.isnan(values)
    defined = np.asarray(usable.all(axis=1), bool)
    q, factors = quantize_tokens(x, constants["x_mult"], signature)
    wrong_inputs = int((q != _integers(ran["rows_q"]))[defined].sum())
    sums = np.zeros(y.shape)  # float64, of the integers that ran
    largest = np.maximum.accumulate(np.abs(constants["b2"]).astype(np.float64))[counts]
    slack = np.zeros(y.shape)  # what hidden values that may round to either side can change
    scaling = np.zeros(y.shape)  # what the error of their dynamic scales can change
    moved = distance = 0
    for learner in range(signature.num_learners):
        tokens = np.arange(len(x))
        if learner >= signature.min_learners:
            tokens = ran["order"][: int((counts > learner).sum())]
        hidden = _hidden(learner, signature, constants, q[tokens], factors[tokens])
        ran_hidden = _integers(ran[f"hidden_{learner + 1}"])
        apart = np.abs(hidden.integers - ran_hidden)
        moved += int((apart > 0)[defined[tokens]].sum())
        allowed = np.minimum(hidden.error, 2 * _LEVELS).astype(np.int64)
        distance = max(distance, int((apart - allowed)[defined[tokens]].max(initial=0)))
        term = hidden.scale * (ran_hidden.astype(np.float64) @ hidden.w2)
        sums[tokens] += term
        largest[tokens] = np.maximum(largest[tokens], np.abs(term))
        steps = hidden.near_half * (1 + np.floor(hidden.error))
        slack[tokens] += hidden.scale * (steps @ np.abs(hidden.w2))
        if signature.dynamic:
            scaling[tokens] += np.abs(term) * hidden.error / _LEVELS
    expected = sums + constants["b2"].astype(np.float64)[counts]
    errors = [_relative(ran["y"], expected, scaling, largest), _relative(y, expected, scaling + slack, largest)]
    worst = max(float(error[defined].max(initial=0)) for error in errors)
    return LayerIntegers(name, len(x), 0, wrong_inputs, moved, distance, worst)


@dataclass(frozen=True)
class _Hidden:
    """Hidden values of one learner: integers ``[t, h]``, those near a half, and what their sums are multiplied with.

    ``error`` ``[t, 1]`` is the error of float32 activations, in integers.
    """

    integers: NDArray[np.int16]
    near_half: NDArray[np.bool_]
    error: NDArray[np.float64]
    scale: NDArray[np.float64]
    w2: NDArray[np.float64]


def _hidden(
    learner: int, signature: QuantizedSignature, constants: Arrays, q: np.ndarray, factors: np.ndarray
) -> _Hidden:
    width = constants["w1"].shape[1] // signature.num_learners
    part = slice(learner * width, (learner + 1) * width)
    arguments = hidden_inputs(q, factors, *(constants[name][..., part] for name in ("w1", "s1", "b1")))
    active = activate(signature.activation, arguments)
    reach = np.maximum(np.abs(arguments), 1)
    if signature.glu:
        values = hidden_inputs(q, factors, *(constants[name][..., part] for name in ("v1", "t1", "c1")))
        active = active * values
        reach = 2 * reach * np.maximum(np.abs(values), 1)  # both factors have an error
    h_mult = constants["h_mult"][learner]
    integers, scale = quantize_hidden(active, h_mult, constants["h_zero"][learner], signature)
    multiplier = 1 / scale if signature.dynamic else np.full((len(q), 1), h_mult, np.float64)
    scaled = active * multiplier
    largest = reach.max(axis=1, keepdims=True)
    error = np.nan_to_num(_ACTIVATION_ERROR * largest * multiplier)
    near_half = np.abs(scaled - np.floor(scaled) - 0.5) < np.maximum(_NEAR_HALF, error)
    weights = constants["w2"][part].astype(np.float64)
    return _Hidden(integers.astype(np.int16), near_half, error, scale * constants["s2"].astype(np.float64), weights)


def _integers(stored: np.ndarray) -> NDArray[np.int16]:
    """Int8 values that the body returns as uint8."""
    return np.asarray(stored.astype(np.int16) - _ZERO_POINT, np.int16)


def _relative(
    y: np.ndarray, expected: NDArray[np.float64], slack: NDArray[np.float64], largest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Error of y beyond the slack and the rounding to its type, relative to the largest terms."""
    rounding = np.abs(expected) * np.finfo(y.dtype).eps + np.finfo(y.dtype).tiny if y.dtype != np.float32 else 0
    beyond = np.abs(y.astype(np.float64) - expected) - slack - rounding
    return np.asarray(np.where(beyond > 0, beyond, 0) / np.maximum(largest, np.finfo(np.float32).tiny))
