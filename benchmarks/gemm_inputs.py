"""Launch arguments of the designs in gemm_*_designs.py, and the values that they must compute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from kernel_cases import SETS
from skipping_rivals import relative_error
from tile_trials import SIZES
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

    from tile_candidates import Sizes

D, H, N = SIZES
TOLERANCE = 1e-2
"""Largest norm of the error ÷ norm of the expected values, in bfloat16."""

DESIGNS = {
    "up_gather": "GEMM 1, gathered rows, all by pointers",
    "up_gather_tma": "GEMM 1, gathered rows, W1 by TMA",
    "up_sorted": "GEMM 1, sorted rows, all by TMA",
    "up_persistent": "GEMM 1, sorted rows, all by TMA, persistent",
    "up_listed": "GEMM 1, sorted rows, all loads by TMA, persistent, list of tiles",
    "down_pointers": "GEMM 2, all by pointers",
    "down_tma": "GEMM 2, all by TMA",
    "down_persistent": "GEMM 2, all by TMA, persistent",
    "permute_rows": "rows of x permuted",
}
GATES = ("gate, products summed at the end", "gate, a sum for each choice", "gate, tl.dot")


@dataclass(frozen=True)
class Candidate:
    """A kernel of gemm_up_designs.py or gemm_down_designs.py, and its sizes.

    Args:
        design: Name of the kernel.
        sizes: Tile, warps, stages, largest number of registers. No block_n if a tile has all columns.
        programs: Number of programs of a persistent kernel.
        gelu: Whether GEMM 1 ends with GELU.
        flatten: Whether the loops over tiles and over K become one.
        halves: Whether the epilogue handles one half of the columns after the other.
        specialized: Whether Triton divides the work among warp groups.
        gate: Index into GATES.
    """

    design: str
    sizes: Sizes
    programs: int = 0
    gelu: bool = True
    flatten: bool = False
    halves: bool = False
    specialized: bool = False
    gate: int = 0

    def __str__(self) -> str:
        sizes = self.sizes
        blocks = [block for block in (sizes.block_m, sizes.block_n, sizes.block_k) if block]
        parts = (
            GATES[self.gate] if self.design == "gate" else DESIGNS[self.design],
            f"{'x'.join(map(str, blocks))}, {sizes.warps} warps, {sizes.stages} stages",
            f"{sizes.registers} registers" if sizes.registers else "",
            f"{self.programs} programs" if self.programs else "",
            "flattened" if self.flatten else "",
            "epilogue in halves" if self.halves else "",
            "warp-specialised" if self.specialized else "",
            "" if self.gelu else "without GELU",
        )
        return ", ".join(filter(None, parts))

    @property
    def constants(self) -> dict[str, int | bool]:
        """Constants of any design, by the name of the argument."""
        m, n, k = self.sizes[:3]
        return {
            "BLOCK_M": m,
            "BLOCK_N": n,
            "BLOCK_K": k,
            "GROUP": 8,
            "GELU": self.gelu,
            "FLATTEN": self.flatten,
            "HALVES": self.halves,
            "SPECIALIZED": self.specialized,
            "DESIGN": self.gate,
        }


class Inputs:
    """Arguments of the kernels, by their names in the designs; learner counts are binomial(N, share)."""

    def __init__(self, tokens: int, share: float, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)

        self.num_tokens, self.model_dim, self.hidden_dim, self.num_learners, self.num_choices = tokens, D, H, N, N + 1
        self.x_sets = [random(tokens, D) for _ in range(SETS)]
        self.w1, self.b1 = random(D, N * H, scale=D**-0.5), random(N * H)
        self.w2, self.b2 = random(N * H, D, scale=(N * H) ** -0.5), random(N + 1, D)
        self.weight, self.bias = random(N + 1, D, scale=D**-0.5).float(), random(N + 1).float()
        ones = torch.ones(tokens, device=device)
        counts = torch.binomial(N * ones, share * ones, generator=generator) if share < 1 else N * ones
        self.counts, self.order = counts.int(), torch.argsort(counts, descending=True, stable=True).int()
        self.reach = torch.stack([(counts >= n).sum() for n in range(N + 1)]).int()
        self.x_sorted = self.x_sets[0][self.order.long()]
        self.runs = self.counts[self.order.long(), None] > torch.arange(N * H, device=device) // H
        self.filled = torch.zeros(-(-tokens // 256) * 256, N * H, device=device, dtype=dtype)
        self.filled[:tokens] = self.expected_hidden(gelu=True)
        self.hidden, self.permuted = torch.empty_like(self.filled), torch.empty_like(self.x_sorted)
        self.y, self.logits = torch.empty_like(self.x_sorted), torch.empty(tokens, N + 1, device=device)
        self.gemm_flops = 2.0 * float(counts.sum()) * D * H

    def expected_hidden(self, *, gelu: bool) -> torch.Tensor:
        """Hidden values of the sorted rows in float32; 0 where a row does not run the learner."""
        sums = self.x_sorted.float() @ self.w1.float() + self.b1.float()
        return (F.gelu(sums) if gelu else sums) * self.runs

    def tiles(self, block_m: int, block_n: int) -> torch.Tensor:
        """Number of tiles of hidden values, then row << 16 | column of each, in groups of eight rows."""
        rows = [-(-int(reach) // block_m) for reach in self.reach[1:]]
        columns = H // block_n
        tiles = [
            r << 16 | n * columns + c
            for n, height in enumerate(rows)
            for first in range(0, height, 8)
            for c in range(columns)
            for r in range(first, min(first + 8, height))
        ]
        return torch.tensor([len(tiles), *tiles], dtype=torch.int32, device=self.reach.device)

    def call(self, given: Candidate, turn: int = 0) -> Callable[[], object]:
        """One launch of a candidate, on the given set of x."""
        import gemm_down_designs
        import gemm_up_designs
        from triton.tools.tensor_descriptor import TensorDescriptor

        designs = gemm_up_designs if given.design.startswith("up_") else gemm_down_designs
        kernel, constants = getattr(designs, given.design), given.constants
        m, n, k = given.sizes[:3]
        blocks = {
            "x_sorted": [m, k],
            "w1": [k, n],
            "hidden": [m, n // (1 + given.halves)],
            "filled": [m, k],
            "w2": [k, n],
        }

        def argument(name: str) -> object:
            if name.endswith("_tma"):
                name = name.removesuffix("_tma")
                return TensorDescriptor.from_tensor(getattr(self, name), blocks[name])
            special = {"x": self.x_sets[turn], "num_programs": given.programs}
            if name == "tiles":
                return self.tiles(m, n)
            return special[name] if name in special else getattr(self, name)

        arguments = [argument(name) for name in kernel.arg_names if name not in constants]
        used = {name: value for name, value in constants.items() if name in kernel.arg_names}
        columns = {"up": N * H, "down": D}.get(given.design.partition("_")[0])
        grid = given.programs or -(-self.num_tokens // m) * (columns // n if columns else 1)
        options = {"num_warps": given.sizes.warps, "num_stages": given.sizes.stages}
        options |= {"maxnreg": given.sizes.registers} if given.sizes.registers else {}
        return partial(kernel[(grid,)], *arguments, **used, **options)

    def error(self, given: Candidate) -> float:
        """Run a candidate once: norm of the error ÷ norm of the values expected by PyTorch in float32.

        Raises:
            ValueError: The error is too large.
        """
        for output in (self.hidden, self.permuted, self.y, self.logits):
            output.fill_(torch.nan)
        self.call(given)()
        if given.design == "permute_rows":
            found, expected = self.permuted, self.x_sorted
        elif given.design == "gate":
            found, expected = self.logits, F.linear(self.x_sets[0].double(), self.weight.double(), self.bias.double())
        elif given.design.startswith("up"):
            found = self.hidden[: self.num_tokens].masked_fill(~self.runs, 0)
            expected = self.expected_hidden(gelu=given.gelu)
        else:
            found, order = self.y[self.order.long()], self.order.long()
            expected = self.filled[: self.num_tokens].float() @ self.w2.float() + self.b2.float()[self.counts[order]]
        if not (error := relative_error(found, expected)) <= TOLERANCE:
            raise ValueError(f"wrong values: relative error {error:.2g}; at most {TOLERANCE} is allowed")
        return error
