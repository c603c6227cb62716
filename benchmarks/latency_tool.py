"""Compare the verb ``latency`` with a loop that shares no code with it, and with itself.

Model: two residual blocks with ACM FFNs, 197 tokens, random weights, all learners running (τ = -1e9). The verb runs in
its own process. A plain loop over ONNX Runtime times the same file on the same inputs, set to the same threshold with
``set-budget``. The two alternate. Their p50, and the p50 of the verb's own runs, should agree as far as the machine is
steady; no limit is enforced.

Overhead: a model of one Identity node, timed by the verb's loop and by a plain loop around the session's call.

Run: ``python benchmarks/latency_tool.py [--quick]``
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import parser, print_table, write_result
from onnx import TensorProto, helper
from torch import nn

from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.onnx_file.set_budget import set_budget
from acm_export.timing.backends.onnx_backend import OnnxBackend
from acm_export.timing.measure import measure

TOKENS, ALL_LEARNERS = 197, -1e9
WARM_UP = 20
BATCHES = 8
"""Number of batches that the verb cycles through."""


@dataclass(frozen=True)
class Row:
    """Median milliseconds of the plain loop and of the verb, with the routing of the data."""

    loop_ms: float
    verb_ms: float
    ratio: float


class Block(nn.Module):
    """``x + ACM(norm(x))``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.acm = nn.LayerNorm(dim), ACMLayer(ACMSpec(dim, 4, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[batch, tokens, dim]``."""
        return torch.as_tensor(x + self.acm(self.norm(x)))


def write_model(folder: Path, dim: int) -> np.ndarray[Any, Any]:
    """Write the model, a copy that runs all learners, and the inputs; returns the inputs."""
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(dim), Block(dim))
    export(blocks, torch.randn(2, TOKENS, dim), folder / "m.onnx", verify=False)
    set_budget(folder / "m.onnx", threshold=ALL_LEARNERS, output=folder / "all.onnx")
    inputs = np.random.default_rng(0).standard_normal((BATCHES, TOKENS, dim)).astype(np.float32)
    np.savez(folder / "d.npz", input=inputs)
    return inputs


def loop_ms(path: Path, inputs: np.ndarray[Any, Any], runs: int) -> float:
    """Median of a plain loop."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    times = []
    for index in range(WARM_UP + runs):
        feeds = {name: inputs[index % BATCHES : index % BATCHES + 1]}
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return median(times[WARM_UP:])


def verb_ms(folder: Path, runs: int) -> float:
    """Median that the verb reports for the routing of the data."""
    program = [sys.executable, "-m", "acm_export"]
    options = ["--threshold", ALL_LEARNERS, "--data", folder / "d.npz", "--runs", runs, "--json"]
    command = list(map(str, [*program, "latency", folder / "m.onnx", *options]))
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(ran.stdout)["runs"][0]["host_ms"]["p50"])


def overhead_us(runs: int) -> tuple[float, float]:
    """Median microseconds of one Identity node: in the verb's loop, and in a plain loop."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    feeds = {"x": np.zeros(1, np.float32)}
    context = OnnxBackend().open(model, Path()).context()
    (timed,) = measure([lambda: context.run(feeds)], runs=runs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    times = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return 1e3 * median(timed.host_ms), 1e6 * median(times[WARM_UP:])


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    dim, runs, rounds = (32, 10, 2) if options.quick else (768, 200, 5)
    with TemporaryDirectory() as name:
        folder = Path(name)
        inputs = write_model(folder, dim)
        rows = []
        for _ in range(rounds):
            loop, verb = loop_ms(folder / "all.onnx", inputs, runs), verb_ms(folder, runs)
            rows.append(Row(loop, verb, verb / loop))
    tool, plain = overhead_us(100 * runs)
    table = [(f"{r.loop_ms:.3f}", f"{r.verb_ms:.3f}", f"{r.ratio:.3f}") for r in rows]
    print_table("p50 of the verb latency against a plain loop, ms", ("plain loop", "verb", "ratio"), table)
    print(f"one Identity: {tool:.1f} us in the tool's loop, {plain:.1f} us in a plain one")
    case = {"dim": dim, "tokens": TOKENS, "batch": 1, "runs": runs, "learners": "all"}
    overhead = {"tool_us": tool, "plain_us": plain}
    write_result("latency_tool", {"case": case, "rows": [asdict(r) for r in rows], "overhead": overhead}, options)


if __name__ == "__main__":
    main()
