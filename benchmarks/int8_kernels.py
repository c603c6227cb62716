"""The int8 op on a GPU, compared with the float16 op and with the dense MLP in float16.

    python benchmarks/int8_kernels.py --device h100

D = h = 768, N = 4, GELU; learner counts are binomial(N, share). Weights of the int8 op are transposed once, as in files
for TensorRT. The gate is left out. Times are those of CUDA graphs; each block is between two blocks of the dense MLP.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from common import ResultFile, print_table
from device_timing import Rotation, device_facts, gpu_options, interleaved
from torch.nn import functional as F  # noqa: N812

from acm_export.modules import gated_learners, quantized_gated_learners

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_DIM, HIDDEN, LEARNERS = 768, 768, 4
TOKENS = (16, 64, 197, 512, 1576, 6304, 25216)
SHARES = (1.0, 0.5, 0.25)
INPUT_SETS = 4

QUICK = 3
"""Numbers of tokens in a quick run."""


def tokens_and_logits(tokens: int, share: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw x ``[tokens, D]``, float16, and logits ``[tokens, N + 1]`` for binomial(N, share) counts."""
    counts = (torch.rand(tokens, LEARNERS, device=device) < share).sum(1)
    logits = F.one_hot(counts, LEARNERS + 1).float()
    return torch.randn(tokens, MODEL_DIM, device=device, dtype=torch.float16), logits


def half_weights(device: str) -> tuple[torch.Tensor, ...]:
    """w1, b1, w2 and b2 of the float16 op; all learners together are the dense MLP."""
    width = LEARNERS * HIDDEN
    w1 = torch.randn(MODEL_DIM, width, device=device) * MODEL_DIM**-0.5
    w2 = torch.randn(width, MODEL_DIM, device=device) * width**-0.5
    b1, b2 = torch.randn(width, device=device), torch.randn(LEARNERS + 1, MODEL_DIM, device=device)
    w1, b1, w2, b2 = (weight.half() for weight in (w1, b1, w2, b2))
    return w1, b1, w2, b2


def int8_weights(weights: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The inputs of the int8 op after the thresholds, from those of the float16 op; hidden values up to 4."""
    w1, b1, w2, b2 = (weight.float() for weight in weights)
    device, x_scale, h_scale = w1.device, 4 / 127, 4 / 255
    s1, s2 = w1.abs().amax(0) / 127, w2.abs().amax(0) / 127
    q1, q2 = (torch.round(w / s).to(torch.int8).t().contiguous().t() for w, s in ((w1, s1), (w2, s2)))
    zero = -118  # the least value of GELU, -0.17, becomes about -128
    sums = q2.float().view(LEARNERS, HIDDEN, MODEL_DIM).sum(1)
    corrections = torch.cat([torch.zeros(1, MODEL_DIM, device=device), sums.cumsum(0)]) * zero * s2 * h_scale
    return (
        torch.full((MODEL_DIM,), 1 / x_scale, device=device),
        q1,
        s1 * x_scale,
        b1,
        torch.full((LEARNERS,), 1 / h_scale, device=device),
        torch.full((LEARNERS,), zero, device=device, dtype=torch.int8),
        q2,
        s2 * h_scale,
        b2 - corrections,
    )


def calls(
    tokens: int, share: float, weights: tuple[torch.Tensor, ...], device: str
) -> dict[str, list[Callable[[], Any]]]:
    """The work of each kind on INPUT_SETS different inputs."""
    inputs = [tokens_and_logits(tokens, share, device) for _ in range(INPUT_SETS)]
    thresholds, quantised = torch.zeros(LEARNERS, device=device), int8_weights(weights)
    w1, b1, w2, b2 = weights
    columns, rows = w1.t().contiguous(), w2.t().contiguous()
    attributes = (LEARNERS, 0, "gelu")

    def dense(x: torch.Tensor, _logits: torch.Tensor) -> torch.Tensor:
        return F.linear(F.gelu(F.linear(x, columns, b1)), rows, b2[-1])

    def half(x: torch.Tensor, logits: torch.Tensor) -> object:
        return gated_learners(x, logits, thresholds, w1, b1, w2, b2, *attributes)

    def int8(x: torch.Tensor, logits: torch.Tensor) -> object:
        return quantized_gated_learners(x, logits, thresholds, *quantised, *attributes)

    kinds: dict[str, Callable[..., Any]] = {"dense": dense, "float16": half, "int8": int8}
    return {kind: [partial(work, *given) for given in inputs] for kind, work in kinds.items()}


def main() -> None:
    """Measure every number of tokens at every share."""
    options = gpu_options(__doc__ or "")
    result, rows = ResultFile("int8_kernels", options), []
    weights = half_weights("cuda")
    entries: list[dict[str, object]] = []
    for tokens in TOKENS[:QUICK] if options.quick else TOKENS:
        for share in SHARES:
            work = calls(tokens, share, weights, "cuda")
            y, expected = work["int8"][0]()[0], work["float16"][0]()[0]
            error = float((y - expected).float().abs().max() / expected.float().abs().max())
            rotations = {kind: Rotation(work[kind]) for kind in ("dense", "float16", "int8")}
            baseline = rotations.pop("dense")
            timings = interleaved(rotations, baseline, rounds=3 if options.quick else 15)
            entry = {"tokens": tokens, "share": share, "error": error}
            entries.append(entry | {kind: asdict(timing) for kind, timing in timings.items()})
            result.add_all({"device": device_facts(), "cases": entries})
            shown = [f"{timings[kind].us:.1f}" for kind in ("float16", "int8")]
            ratios = [f"{timings[kind].ratio:.2f}" for kind in ("float16", "int8")]
            rows.append(
                [str(tokens), str(share), f"{timings['int8'].baseline_us:.1f}", *shown, *ratios, f"{error:.3f}"]
            )
    columns = ("tokens", "share", "dense, µs", "float16, µs", "int8, µs", "float16 ÷ dense", "int8 ÷ dense", "error")
    print_table("ops without their gates", columns, rows)


if __name__ == "__main__":
    main()
