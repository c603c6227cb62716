"""Compute how much more the staircase kernels compute than tokens need: executed ÷ needed multiply-adds, without a GPU.

A tile is computed whole as soon as one of its tokens needs it. Measured for random, skewed and real counts, from one
token to a large batch. Real counts come from the embedded digits model on its test images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from common import parser, print_table, write_result

from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import select
from acm_export.plugins.kernels.work import work

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS = (1, 4, 16, 64, 197, 512, 1576, 25216)
SHARES = (0.75, 0.5, 0.25)
MODEL_DIM, HIDDEN_DIM, LEARNERS = 768, 768, 4


@dataclass(frozen=True)
class Row:
    """Waste of one routing: ``counts`` says how counts were generated, ``share`` is the mean of count / N."""

    arch: str
    tokens: int
    counts: str
    share: float
    waste: float


def routings(tokens: int, rng: np.random.Generator, real: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:
    """Counts by the way they were generated."""
    made: dict[str, NDArray[np.integer[Any]]] = {
        f"random {share:.2f}": rng.binomial(LEARNERS, share, tokens) for share in SHARES
    }
    for share in SHARES:  # a few tokens run all learners, the others none
        skewed = np.zeros(tokens, np.int32)
        skewed[: max(1, round(share * tokens))] = LEARNERS
        made[f"skewed {share:.2f}"] = skewed
    made["real"] = rng.choice(real, tokens)
    return {name: counts.astype(np.int32) for name, counts in made.items()}


def real_counts() -> NDArray[np.int32]:
    """Counts of every token of every FFN of the embedded model on its test images, at τ = 0."""
    from acm_export.checkpoints import load_checkpoint
    from acm_export.demo.digits import ACM, load_test_images
    from acm_export.exporter import export
    from acm_export.onnx_file.model_file import read_model
    from acm_export.runtimes.onnx_runtime import CpuSession

    images, _ = load_test_images()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        result = export(load_checkpoint(ACM), output=path, with_counts=True, verify=False)
        session = CpuSession(read_model(path), path.parent)
        outputs = session.run({"pixel_values": images})
    chosen = [e.name for e in result.manifest.layers if e.activation == "gelu"]
    return np.concatenate([outputs[f"counts/{name}"].ravel() for name in chosen])


def measure(archs: tuple[str, ...], rounds: int) -> list[Row]:
    """Mean waste over ``rounds`` draws."""
    rng, real, rows = np.random.default_rng(0), real_counts(), []
    for arch in archs:
        for tokens in TOKENS:
            problem = Problem(tokens, MODEL_DIM, HIDDEN_DIM, LEARNERS, 0, 2)
            entry = select(arch, "half", problem, aligned=True)
            draws = [routings(tokens, rng, real) for _ in range(rounds)]
            for name in draws[0]:
                done = [work(problem, entry, draw[name]) for draw in draws]
                needed = sum(w.needed for w in done)
                share = needed / (rounds * tokens * LEARNERS * 2 * MODEL_DIM * HIDDEN_DIM)
                rows.append(Row(arch, tokens, name, share, sum(w.executed for w in done) / max(needed, 1)))
    return rows


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    rows = measure(("sm_80", "sm_90"), 3 if options.quick else 50)
    names = list(dict.fromkeys(row.counts for row in rows))
    for arch in dict.fromkeys(row.arch for row in rows):
        table = {(row.tokens, row.counts): row for row in rows if row.arch == arch}
        print_table(
            f"executed ÷ needed multiply-adds, {arch} tiles, fp16, D = h = {MODEL_DIM}, N = {LEARNERS}",
            ["tokens", *names],
            [[str(tokens), *(f"{table[tokens, name].waste:.2f}" for name in names)] for tokens in TOKENS],
        )
    write_result("tile_waste", {"rows": [asdict(row) for row in rows]}, options)


if __name__ == "__main__":
    main()
