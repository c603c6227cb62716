"""The ops on a GPU against a float64 loop over the learners: twelve cases in three dtypes, in a few seconds.

    python benchmarks/gpu_smoke.py --device h100

Counts must be equal, y within the tolerance of its dtype (docs/op.md, "Output"), and 100 runs equal bit for bit. Every
case is printed and recorded; exit code 1 if one fails.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import ResultFile, parser

from acm_export.modules import gated_learners, glu_gated_learners
from acm_export.op.signature import Signature

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from gpu_reference import (  # type: ignore[import-not-found]
    TOLERANCE,
    Inputs,
    largest_error,
    random_inputs,
    reference,
)

REPEATS = 100
_VIT_B = Signature(4, 0, "gelu")


@dataclass(frozen=True)
class Case:
    """Shapes of one call, its activation, and whether it is repeated."""

    tokens: int
    model_dim: int = 768
    hidden_dim: int = 768
    signature: Signature = _VIT_B
    repeated: bool = False

    def __str__(self) -> str:
        sign = self.signature
        shape = f"{self.tokens} tokens, D = {self.model_dim}, h = {self.hidden_dim}, N = {sign.num_learners}"
        return f"{shape}, at least {sign.min_learners}, {sign.activation}{', GLU' * sign.glu}"

    def inputs(self, dtype: torch.dtype, device: str = "cuda") -> Inputs:
        """Random inputs, the same on every call."""
        return random_inputs(self.tokens, self.model_dim, self.hidden_dim, self.signature, dtype, device=device)


CASES = (
    Case(1),
    Case(17, repeated=True),
    Case(197, repeated=True),
    Case(512, signature=Signature(4, 0, "gelu_tanh")),
    Case(513),
    Case(4097, repeated=True),
    Case(700, 65, 24, Signature(3, 1, "silu")),
    Case(300, 128, 64, Signature(1, 0, "identity")),
    Case(900, 64, 32, Signature(64, 0, "relu")),
    Case(17, signature=Signature(4, 0, "silu", glu=True), repeated=True),
    Case(4097, 768, 512, Signature(4, 0, "silu", glu=True), repeated=True),
    Case(700, 65, 24, Signature(3, 1, "gelu_tanh", glu=True)),
)
"""Sizes at which tiles change, widths that are not multiples of a tile, one learner, the most; gated FFNs."""


@dataclass(frozen=True)
class CaseResult:
    """Result of one case in one dtype.

    Args:
        case: Description of the case.
        dtype: Dtype of x and the weights.
        error: Largest error of y relative to its largest value; NaN if it was not computed.
        tolerance: Largest error that passes.
        counts_equal: Whether all learner counts are those of the reference.
        runs_that_differ: Runs out of :data:`REPEATS` that differ in a bit; None if the case is not repeated.
        reason: The exception, or empty.
    """

    case: str
    dtype: str
    error: float
    tolerance: float
    counts_equal: bool
    runs_that_differ: int | None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the case passed."""
        return self.error <= self.tolerance and self.counts_equal and not self.runs_that_differ and not self.reason

    def __str__(self) -> str:
        counts = "counts equal" if self.counts_equal else "COUNTS DIFFER"
        repeats = "" if self.runs_that_differ is None else f", {self.runs_that_differ} of {REPEATS} runs differ"
        measured = self.reason or f"error {self.error:.1e} of {self.tolerance:.0e}, {counts}{repeats}"
        return f"{'passed' if self.passed else 'FAILED'}  {self.case}, {self.dtype}: {measured}"


def run(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The op: y and counts."""
    op = glu_gated_learners if inputs.signature.glu else gated_learners
    y, counts = op(*inputs.tensors, *inputs.attributes())
    return y, counts


def check(case: Case, dtype: torch.dtype, device: str = "cuda") -> CaseResult:
    """Run one case; an exception becomes a result."""
    name, tolerance = str(dtype).removeprefix("torch."), float(TOLERANCE[dtype])
    try:
        inputs = case.inputs(dtype, device)
        y, counts = run(inputs)
        differ = None
        if case.repeated:
            differ = sum(not all(map(torch.equal, run(inputs), (y, counts))) for _ in range(REPEATS))
        expected, expected_counts = reference(inputs)
        equal = torch.equal(counts, expected_counts)
        return CaseResult(str(case), name, float(largest_error(y, expected)), tolerance, equal, differ)
    except Exception as error:  # noqa: BLE001  the other cases still run
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return CaseResult(
            str(case), name, float("nan"), tolerance, counts_equal=False, runs_that_differ=None, reason=reason
        )


def main() -> None:
    """Run all cases; exit code 1 if one fails."""
    options = parser(__doc__ or "").parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU here")
    result, done = ResultFile("gpu_smoke", options), []
    for case in CASES:
        for dtype in TOLERANCE:
            done.append(check(case, dtype))
            print(done[-1], flush=True)
            result.add("cases", [asdict(one) | {"passed": one.passed} for one in done])
    failed = sum(not one.passed for one in done)
    print(f"{len(done) - failed} cases passed, {failed} failed; wrote {result.path}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
