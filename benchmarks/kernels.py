"""The staircase kernels on a GPU against the dense MLP, against cuBLAS, and against other ways to skip learners.

Dense is Linear-GELU-Linear of PyTorch over the same weights, eager and compiled, the faster of the two. Every side runs
as a CUDA graph over rotating inputs (device_timing.py). Counts are random: binomial(N, share) for each token.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import parser, print_table, write_result
from device_timing import DeviceTiming, Rotation, device_facts, interleaved, median_us
from matplotlib import pyplot as plt
from torch.nn import functional as F  # noqa: N812

from acm_export.flops import learner_flops, linear_flops
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.plugins.kernels import launch, plan, tiles
from acm_export.plugins.kernels.work import work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARES = (1.0, 0.75, 0.5, 0.25)
VIT_B, VIT_H = (768, 768, 4), (1280, 1280, 4)
BATCH, IMAGE = 25216, 197
SETS = 4
"""Input sets that rotate: at 25,216 tokens of ViT-B together several times the L2 cache."""


@dataclass(frozen=True)
class Case:
    """One layer and its input sets, with gate logits that ask for random counts."""

    layer: ACMLayer
    tokens: list[torch.Tensor]
    logits: list[torch.Tensor]

    def op(self) -> Rotation:
        """The op without its gate."""
        return Rotation(
            [lambda x=x, z=z: self.layer.run(x, z) for x, z in zip(self.tokens, self.logits, strict=True)]  # type: ignore[misc]
        )

    def calls(self, function: Callable[[torch.Tensor], object]) -> Rotation:
        """Anything else on the same tokens."""
        return Rotation([lambda x=x: function(x) for x in self.tokens])  # type: ignore[misc]


def case(sizes: tuple[int, int, int], tokens: int, share: float, seed: int = 0) -> Case:
    """A layer in bfloat16 and inputs whose mean of count / N is about ``share``."""
    model_dim, hidden_dim, learners = sizes
    rng = np.random.default_rng(seed)
    layer = ACMLayer(ACMSpec(model_dim=model_dim, num_learners=learners, hidden_dim=hidden_dim)).cuda().bfloat16()
    counts = [rng.binomial(learners, share, tokens) for _ in range(SETS)]
    logits = [torch.from_numpy(np.eye(learners + 1, dtype=np.float32)[c]).cuda() for c in counts]
    x = [torch.randn(tokens, model_dim, device="cuda", dtype=torch.bfloat16) for _ in range(SETS)]
    return Case(layer.eval(), x, logits)


def dense_baseline(given: Case, rounds: int) -> tuple[Rotation, dict[str, float]]:
    """The faster of eager and compiled, and microseconds of both."""
    eager = given.layer.dense().eval()
    compiled: Callable[[torch.Tensor], object] = torch.compile(eager)
    rotations = {"eager": given.calls(eager), "compiled": given.calls(compiled)}
    us = {name: median_us(rotation, rounds=rounds) for name, rotation in rotations.items()}
    return rotations[min(us, key=us.__getitem__)], us


def against_dense(sizes: tuple[int, int, int], tokens: int, shares: tuple[float, ...], rounds: int) -> dict[str, Any]:
    """Op ÷ dense at several shares, and the gate beside it."""
    cases = {share: case(sizes, tokens, share) for share in shares}
    baseline, dense_us = dense_baseline(cases[shares[0]], rounds)
    timings = interleaved({share: given.op() for share, given in cases.items()}, baseline, rounds=rounds)
    gate = interleaved({0: cases[shares[0]].calls(cases[shares[0]].layer.gate)}, baseline, rounds=rounds)[0]
    return {
        "sizes": sizes, "tokens": tokens, "dense_us": dense_us, "gate": asdict(gate),
        "rows": [{"share": _share(cases[s]), "asked": s, **asdict(timings[s])} for s in shares],
    }  # fmt: skip


def rate(sizes: tuple[int, int, int], tokens: int, rounds: int) -> dict[str, Any]:
    """Executed FLOP/s with all learners ÷ the rate of the largest matrix product that fits the cuBLAS of PyTorch."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    peak = size * linear_flops(size, size) / median_us(Rotation([lambda: a @ b]), rounds=rounds, block_ms=20) * 1e6
    given = case(sizes, tokens, 1.0)
    us = median_us(given.op(), rounds=rounds, block_ms=20)
    spec = given.layer.spec
    executed = tokens * spec.num_learners * learner_flops(spec) / us * 1e6
    return {"sizes": sizes, "tokens": tokens, "us": us, "tflops": executed / 1e12, "cublas_tflops": peak / 1e12,
            "ratio": executed / peak}  # fmt: skip


def routing_alone(tokens: int, rounds: int) -> dict[str, Any]:
    """Microseconds of counts, order and reach."""
    given = case(VIT_B, tokens, 0.5)
    problem = plan.Problem(tokens, *VIT_B, 0, 2)
    space = launch.Space(problem, torch.bfloat16, given.tokens[0].device)
    counts = torch.empty(tokens, dtype=torch.int32, device="cuda")
    thresholds = given.layer.thresholds
    calls = [lambda z=z: launch.route(problem, z, thresholds, counts, space) for z in given.logits]
    return {"tokens": tokens, "us": median_us(Rotation(calls), rounds=rounds)}


def _share(given: Case) -> float:
    layer = given.layer
    counts = [layer.run(x, z)[1].float().mean() for x, z in zip(given.tokens, given.logits, strict=True)]
    return float(torch.stack(counts).mean()) / layer.spec.num_learners


def against_peers(rounds: int) -> dict[str, Any]:
    """The same work by other means: all learners masked (as published), and one dense product per learner."""
    given = case(VIT_B, BATCH, 0.5)
    layer, n, h = given.layer, VIT_B[2], VIT_B[1]
    slices = [slice(i * h, (i + 1) * h) for i in range(n)]
    counts = [layer.run(x, z)[1] for x, z in zip(given.tokens, given.logits, strict=True)]
    orders = [torch.argsort(c, descending=True, stable=True) for c in counts]
    totals = [[int((c > i).sum()) for i in range(n)] for c in counts]

    def masked(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        y = layer.b2[c.long()]
        for i, part in enumerate(slices):
            y = y + (c > i).unsqueeze(1) * (F.gelu(torch.addmm(layer.b1[part], x, layer.w1[:, part])) @ layer.w2[part])
        return y

    def per_learner(x: torch.Tensor, c: torch.Tensor, order: torch.Tensor, total: list[int]) -> torch.Tensor:
        rows, y = x[order], layer.b2[c[order].long()]
        for part, tokens in zip(slices, total, strict=True):
            y[:tokens] += F.gelu(torch.addmm(layer.b1[part], rows[:tokens], layer.w1[:, part])) @ layer.w2[part]
        return torch.empty_like(y).index_copy_(0, order, y)

    sets = list(zip(given.tokens, counts, orders, totals, strict=True))
    peers = {
        "masked loop": Rotation([lambda s=s: masked(s[0], s[1]) for s in sets]),  # type: ignore[misc]
        # with totals known beforehand, which a real run would have to wait for
        "one product per learner": Rotation([lambda s=s: per_learner(*s) for s in sets]),  # type: ignore[misc]
    }
    timings = interleaved(peers, given.op(), rounds=rounds)
    return {"share": _share(given), "tokens": BATCH, "peers": {name: asdict(t) for name, t in timings.items()}}


def line(rounds: int, points: int) -> dict[str, Any]:
    """Time against executed multiply-adds over shares, and against tokens at half the learners: least squares."""
    shares = [(BATCH, float(share)) for share in np.linspace(0.02, 1, points)]
    sizes = [(round(tokens), 0.5) for tokens in np.linspace(BATCH / 8, BATCH, points)]
    over_shares = [_point(tokens, share, rounds) for tokens, share in shares]
    over_tokens = [_point(tokens, share, rounds) for tokens, share in sizes]
    return {
        "executed tiles": _fit([executed for _, executed, _ in over_shares], [us for _, _, us in over_shares]),
        "tokens": _fit([tokens for tokens, _, _ in over_tokens], [us for _, _, us in over_tokens]),
    }


def _point(tokens: int, share: float, rounds: int) -> tuple[float, float, float]:
    """Tokens, executed multiply-adds, microseconds."""
    given = case(VIT_B, tokens, share)
    problem = plan.Problem(tokens, *VIT_B, 0, 2)
    entry = tiles.select(launch.architecture(torch.device("cuda")), "half", problem, aligned=True)
    counts = [given.layer.run(x, z)[1].cpu().numpy() for x, z in zip(given.tokens, given.logits, strict=True)]
    executed = float(np.mean([work(problem, entry, c).executed for c in counts]))
    return float(tokens), executed, median_us(given.op(), rounds=rounds)


def _fit(at: list[float], measured: list[float]) -> dict[str, Any]:
    x, us = np.array(at), np.array(measured)
    slope, fixed = np.polyfit(x, us, 1)
    residuals = us - (fixed + slope * x)
    return {
        "x": at, "us": measured, "fixed_us": float(fixed), "us_per_x": float(slope), "residuals_us": residuals.tolist(),
        "r2": float(1 - (residuals**2).sum() / ((us - us.mean()) ** 2).sum()),
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: this measures a GPU; for tile waste without one: python benchmarks/tile_waste.py")
    rounds = 3 if options.quick else 15
    with torch.no_grad():
        result: dict[str, Any] = {
            "device": device_facts(),
            "batch": against_dense(VIT_B, BATCH, SHARES, rounds),
            "image": against_dense(VIT_B, IMAGE, (0.5, 1.0), rounds),
            "rate": rate(VIT_H, BATCH, rounds),
            "routing": [routing_alone(tokens, rounds) for tokens in (IMAGE, BATCH)],
            "peers": against_peers(rounds),
            "line": line(rounds, 5 if options.quick else 12),
        }
    _print(result)
    path = write_result("kernels", result, options)
    _plot(result["line"], path.with_suffix(".png"))


def _plot(lines: dict[str, Any], path: Path) -> None:
    """Time and fit, and what the fit leaves, against executed tiles and against tokens."""
    figure, axes = plt.subplots(2, len(lines), figsize=(10, 6), sharex="col", squeeze=False)
    for column, (name, fit) in enumerate(lines.items()):
        x, top, bottom = np.array(fit["x"]), axes[0][column], axes[1][column]
        top.plot(x, fit["us"], "o")
        top.plot(x, fit["fixed_us"] + fit["us_per_x"] * x, "-", label=f"R² = {fit['r2']:.4f}")
        top.set(ylabel="µs", title=f"time against {name}", ylim=(0, None))
        top.legend()
        bottom.plot(x, fit["residuals_us"], "o")
        bottom.axhline(0)
        bottom.set(xlabel="multiply-adds" if name == "executed tiles" else name, ylabel="µs beside the line")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def _print(result: dict[str, Any]) -> None:
    for name in ("batch", "image"):
        part = result[name]
        rows = [
            (f"{r['share']:.2f}", DeviceTiming(**{k: r[k] for k in DeviceTiming.__annotations__})) for r in part["rows"]
        ]
        print_table(
            f"op ÷ dense, bf16, {part['tokens']} tokens, D, h, N = {part['sizes']}",
            ["share run", "µs", "dense µs", "÷ dense", "quartiles"],
            [[s, f"{t.us:.1f}", f"{t.baseline_us:.1f}", f"{t.ratio:.3f}", f"{t.ratio_q25:.3f}-{t.ratio_q75:.3f}"]
             for s, t in rows],
        )  # fmt: skip
    peers = result["peers"]["peers"]
    lines = result["line"]
    print_table(
        "the rest", ["what", "value"],
        [["ViT-H, all learners: executed FLOP/s ÷ cuBLAS", f"{result['rate']['ratio']:.2f}"],
         *[[f"routing alone, {r['tokens']} tokens", f"{r['us']:.1f} µs"] for r in result["routing"]],
         *[[f"{name} ÷ op, share {result['peers']['share']:.2f}", f"{t['ratio']:.2f}"] for name, t in peers.items()],
         *[[f"R² of time against {name}", f"{fit['r2']:.4f}"] for name, fit in lines.items()]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
