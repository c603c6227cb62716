"""Measure the int8 operator in ONNX Runtime against the dense MLP in int8, the rival that most users would pick.

What: QuantizedGatedLearners with D = 768, N = 4, h = 768 and gelu, and the dense MLP with the same weights (hidden size
N*h = 3072), both as in a transformer block, ``out = x + MLP(x)``. The dense MLP runs in float32, in int8 with static
scales (explicit QuantizeLinear and DequantizeLinear, scales as ``quantize`` finds them) and in int8 with dynamic scales
(``onnxruntime.quantization.quantize_dynamic``), weights per column in all of them; the faster int8 version is the
rival. Learner counts are drawn per token, binomial(N, share), and fed as one-hot gate logits. The reported share is the
one that ran. Before timing, every int8 model is compared with float32.

How: blocks of runs, each case between two blocks of the dynamic dense model (benchmarks/common.py), two threads. The
limit for time ÷ dense int8 is the share plus a margin: 0.08 (aim 0.04) at 1576 tokens, 0.12 (aim 0.06) at 197.

Run: ``python benchmarks/int8_op.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from common import Timing, interleaved, parser, print_table, write_result
from onnx import helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from acm_export.demo.ffn import FFN
from acm_export.op import DOMAIN, QUANTIZED_INPUTS, QuantizedSignature, Signature
from acm_export.op.quantized_body import quantized_body
from acm_export.quantization.activations import activated
from acm_export.quantization.float_learners import FloatLearners
from acm_export.quantization.learner_scales import static_learners
from acm_export.quantization.observed import Observed
from acm_export.quantization.options import Options
from acm_export.quantization.scales import quantize_columns, symmetric_scale
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 2
BLOCK = FFN(model_dim=768, hidden_dim=768, tokens_per_sample=197, signature=Signature(4, 0, "gelu"))
INT8 = QuantizedSignature(4, 0, "gelu")
SHARES = (1.0, 0.75, 0.5, 0.25)
TOLERANCE = 0.05

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Size:
    """A number of tokens and how it is measured; ``limit`` and ``aim`` bound time ÷ dense int8 minus the share."""

    batch: int
    limit: float
    aim: float
    rounds: int
    runs: int


SIZES = (Size(8, 0.08, 0.04, rounds=40, runs=4), Size(1, 0.12, 0.06, rounds=80, runs=10))
QUICK = (Size(1, 0.12, 0.06, rounds=2, runs=2),)


def int8_model(values: Arrays, seen: Observed) -> onnx.ModelProto:
    """``out = x + QuantizedGatedLearners(x)``: the float model with the op that ``quantize`` writes."""
    model = BLOCK.op_model(values)
    weights = FloatLearners(*(values[name] for name in ("w1", "b1", "w2", "b2")))
    learners = static_learners(weights, BLOCK.signature, seen, Options()).learners
    tensors = {"thresholds": values["thresholds"], **vars(learners)}
    model.graph.node[0].CopyFrom(
        helper.make_node(INT8.function_name, list(QUANTIZED_INPUTS), ["y", "counts"], domain=DOMAIN, **vars(INT8))
    )
    del model.graph.initializer[:], model.functions[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    model.functions.append(quantized_body(INT8, next(o.version for o in model.opset_import if not o.domain)))
    return model


def static_model(values: Arrays, seen: Observed) -> onnx.ModelProto:
    """The dense model with explicit quantisation, in the form that ``quantize`` writes into portable files."""
    model = BLOCK.dense_model(values)
    active = activated("gelu", seen.sample @ values["w1"] + values["b1"])
    samples = {"x": seen.sample, "active": active}
    graph, nodes = model.graph, []
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        x, w = node.input
        weight = numpy_helper.to_array(tensors[w])
        int8, scale = quantize_columns(weight, 127)
        tensors[w].CopyFrom(numpy_helper.from_array(int8, w))
        largest = float(np.abs(samples[x]).max())
        more = {
            f"{x}.scale": symmetric_scale(samples[x], np.square(weight).sum(1), largest),
            f"{x}.zero": np.uint8(128),
            f"{w}.scale": scale,
            f"{w}.zero": np.zeros(len(scale), np.int8),
        }
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in more.items())
        quantised, back = f"{x}.uint8", f"{x}.back"
        nodes += [
            helper.make_node("QuantizeLinear", [x, f"{x}.scale", f"{x}.zero"], [quantised]),
            helper.make_node("DequantizeLinear", [quantised, f"{x}.scale", f"{x}.zero"], [back]),
            helper.make_node("DequantizeLinear", [w, f"{w}.scale", f"{w}.zero"], [f"{w}.back"], axis=1),
            helper.make_node("MatMul", [back, f"{w}.back"], list(node.output)),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def dynamic_model(values: Arrays) -> onnx.ModelProto:
    """The dense model after ONNX Runtime's own quantize_dynamic, weights per column."""
    with TemporaryDirectory() as name:
        source, target = Path(name) / "dense.onnx", Path(name) / "int8.onnx"
        onnx.save(BLOCK.dense_model(values), source)
        quantize_dynamic(source, target, per_channel=True)
        return onnx.load(target)


def check(name: str, out: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Mean error relative to the standard deviation of the float32 output.

    Raises:
        VerificationError: It is too large for int8.
    """
    error = float(np.abs(out - expected).mean() / expected.std())
    if not error <= TOLERANCE:
        raise VerificationError(f"{name} is off by {error:.3g} of the output's standard deviation")
    return error


def measure(size: Size, sessions: dict[str, CpuSession]) -> list[dict[str, Any]]:
    """Both dense int8 models, dense float32 and the int8 op at all shares, each between two blocks of dense int8."""
    rng = np.random.default_rng(size.batch)
    given = {share: BLOCK.feeds(rng, size.batch, share) for share in SHARES}
    inputs = {"x": given[1.0]["x"]}
    expected = sessions["dense float32"].run(inputs)["out"]
    errors: dict[str, float] = {}
    for name in ("dense int8, static", "dense int8, dynamic"):
        errors[name] = check(name, sessions[name].run(inputs)["out"], expected)
    full = sessions["ACM int8"].run(given[1.0])["out"]
    errors["ACM int8"] = check("ACM int8", full, expected)
    ran = {share: float(sessions["ACM int8"].run(feeds)["counts"].mean()) / 4 for share, feeds in given.items()}
    cases: dict[str | float, Callable[[], object]] = {
        name: partial(sessions[name].run, inputs) for name in ("dense float32", *list(errors)[:2])
    }
    cases |= {share: partial(sessions["ACM int8"].run, feeds, ["out"]) for share, feeds in given.items()}
    timings = interleaved(cases, cases["dense int8, dynamic"], rounds=size.rounds, runs=size.runs)
    rival = min(timings["dense int8, static"].ratio, timings["dense int8, dynamic"].ratio)
    tokens = size.batch * BLOCK.tokens_per_sample
    rows = [_row(tokens, str(name), None, timings[name], rival, errors.get(str(name))) for name in list(cases)[:3]]
    for share in SHARES:
        row = _row(tokens, "ACM int8", ran[share], timings[share], rival, errors["ACM int8"] if share == 1 else None)
        over = row["over_dense_int8"] - ran[share]
        rows.append(row | {"within_limit": over <= size.limit, "within_aim": over <= size.aim})
    return rows


def _row(
    tokens: int, what: str, share: float | None, timing: Timing, rival: float, error: float | None
) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "what": what,
        "share": share,
        "over_dense_int8": timing.ratio / rival,
        "quartiles": [timing.ratio_q25 / rival, timing.ratio_q75 / rival],
        "error": error,
        "timing": asdict(timing),
    }


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    values = BLOCK.weights(np.random.default_rng(0))
    samples = np.random.default_rng(1).standard_normal((512, BLOCK.model_dim)).astype(np.float32)
    counts = np.full(len(samples), BLOCK.signature.num_learners, np.int32)
    seen = Observed(np.abs(samples).max(0), samples, counts)
    models = {
        "dense float32": BLOCK.dense_model(values),
        "dense int8, static": static_model(values, seen),
        "dense int8, dynamic": dynamic_model(values),
        "ACM int8": int8_model(values, seen),
    }
    sessions = {name: CpuSession(model, Path(), threads=THREADS) for name, model in models.items()}
    rows = [row for size in (QUICK if options.quick else SIZES) for row in measure(size, sessions)]
    print_table(
        f"int8 operator against the dense MLP in int8, {sessions['ACM int8'].name}, {THREADS} threads",
        ("tokens", "model", "share", "time ÷ dense int8", "quartiles", "ms", "limit", "aim"),
        [
            (
                str(row["tokens"]),
                row["what"],
                "" if row["share"] is None else f"{row['share']:.3f}",
                f"{row['over_dense_int8']:.3f}",
                "{:.3f} - {:.3f}".format(*row["quartiles"]),
                f"{row['timing']['ms']:.2f}",
                {True: "ok", False: "over", None: ""}[row.get("within_limit")],
                {True: "ok", False: "over", None: ""}[row.get("within_aim")],
            )
            for row in rows
        ],
    )
    case = asdict(BLOCK) | {"threads": THREADS}
    write_result("int8_op", {"case": case, "rows": rows}, options)


if __name__ == "__main__":
    main()
