"""The operator alone at the size of a real transformer's FFN, compared with the dense MLP of equal size.

Both are built as in a transformer block, ``out = x + MLP(x)``, with random weights as initializers. Unlike a
tiny model, this shows that time follows the share of learners that run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acm_export.base.timing import paired_ratios
from acm_export.op import DOMAIN, INPUTS, VERSION, Signature
from acm_export.op.body import portable_body
from acm_export.op.schema import register
from acm_export.runtimes.onnx_runtime import CpuSession

Arrays = dict[str, np.ndarray]

_OPSET, _IR_VERSION = 20, 10


@dataclass(frozen=True)
class FFN:
    """An FFN with N learners of hidden width h, and samples with a fixed number of tokens.

    Args:
        model_dim: D.
        hidden_dim: h.
        tokens_per_sample: Number of tokens in one sample.
        signature: N, min_learners (0) and the activation (gelu).
    """

    model_dim: int = 768
    hidden_dim: int = 768
    tokens_per_sample: int = 197
    signature: Signature = Signature(num_learners=4, min_learners=0, activation="gelu")  # noqa: RUF009  frozen

    def weights(self, rng: np.random.Generator) -> Arrays:
        """Weights of the op by input name, scaled to keep activations near 1; thresholds are 0."""
        shapes = self.signature.weight_shapes(self.model_dim, self.hidden_dim)
        drawn = {k: (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32) for k, shape in shapes.items()}
        return {"thresholds": np.zeros(self.signature.num_learners, np.float32), **drawn}

    def feeds(self, rng: np.random.Generator, batch: int, share: float) -> Arrays:
        """Random tokens, and one-hot gate logits that give each token a binomial(N, share) learner count."""
        x = rng.standard_normal((batch, self.tokens_per_sample, self.model_dim)).astype(np.float32)
        counts = rng.binomial(self.signature.num_learners, share, x.shape[:-1])
        return {"x": x, "gate_logits": np.eye(self.signature.num_choices, dtype=np.float32)[counts]}

    def op_model(self, weights: Arrays) -> onnx.ModelProto:
        """``out = x + GatedLearners(x)``, with the portable body; outputs ``out`` and ``counts``."""
        register()
        node = helper.make_node(
            self.signature.function_name, list(INPUTS), ["y", "counts"], domain=DOMAIN, **self.signature.attributes
        )
        nodes = [node, helper.make_node("Add", ["x", "y"], ["out"])]
        counts = helper.make_tensor_value_info("counts", TensorProto.INT32, ["batch", self.tokens_per_sample])
        inputs = [self._tokens("x", self.model_dim), self._tokens("gate_logits", self.signature.num_choices)]
        graph = helper.make_graph(nodes, "op", inputs, [self._tokens("out", self.model_dim), counts], _tensors(weights))
        return _model(graph, portable_body(self.signature, _OPSET))

    def dense_model(self, weights: Arrays) -> onnx.ModelProto:
        """``out = x + MLP(x)`` with the weights of all learners; output ``out``."""
        steps = (
            ("MatMul", ["x", "w1"], "up"),
            ("Add", ["up", "b1"], "hidden"),
            ("Gelu", ["hidden"], "active"),
            ("MatMul", ["active", "w2"], "down"),
            ("Add", ["down", "b2"], "y"),
            ("Add", ["x", "y"], "out"),
        )
        nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
        kept = {name: weights[name] for name in ("w1", "b1", "w2")} | {"b2": weights["b2"][-1]}
        x, out = (self._tokens(name, self.model_dim) for name in ("x", "out"))
        return _model(helper.make_graph(nodes, "dense", [x], [out], _tensors(kept)))

    def _tokens(self, name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", self.tokens_per_sample, width])


def _tensors(values: Arrays) -> list[TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _model(graph: onnx.GraphProto, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", _OPSET), *(helper.make_opsetid(DOMAIN, VERSION) for _ in functions)]
    return helper.make_model(graph, ir_version=_IR_VERSION, functions=functions, opset_imports=opsets)


@dataclass(frozen=True)
class FFNRow:
    """Time of the op ÷ time of the dense MLP, for one share of learners that run.

    Args:
        share: Mean of count / N over the tokens.
        time_ratio: Median ratio of paired blocks.
    """

    share: float
    time_ratio: float


def time_ffn(*, batch: int, pairs: int, runs: int, shares: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)) -> list[FFNRow]:
    """Time the op at several shares and compare it with the dense MLP, in ONNX Runtime on the CPU.

    Args:
        batch: Number of samples, 197 tokens each.
        pairs: Number of ratios for each share.
        runs: Number of runs in one timed block.
        shares: Expected shares of learners that run: success probabilities of the binomial learner counts.

    Returns:
        One row for each share, with the share that actually ran.
    """
    ffn, rng = FFN(), np.random.default_rng(0)
    weights = ffn.weights(rng)
    op, dense = (CpuSession(model, Path()) for model in (ffn.op_model(weights), ffn.dense_model(weights)))
    rows = []
    for share in shares:
        feeds = ffn.feeds(rng, batch, share)
        ran = op.run(feeds)["counts"].mean() / ffn.signature.num_learners
        baseline = partial(dense.run, {"x": feeds["x"]})
        ratios = paired_ratios(partial(op.run, feeds, ["out"]), baseline, pairs=pairs, runs=runs)
        rows.append(FFNRow(float(ran), median(ratios)))
    return rows
