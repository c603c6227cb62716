"""Layers and inputs with chosen learner counts, ready to be timed: the op, its gate, or both.

The first C values of a token encode its learner count (8 at that position, 0 elsewhere), and the gate's weights pass
them on to the logits. So the gate does its full arithmetic with a known result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from device_timing import Rotation

from acm_export.modules import ACMLayer, ACMSpec
from acm_export.plugins.kernels import launch, tiles
from acm_export.plugins.kernels.plan import Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.plugins.kernels.tiles import Entry

Sizes = tuple[int, int, int]
"""D, h, N."""

SETS = 4
"""Input sets that rotate: at 25,216 tokens of ViT-B together several times the L2 cache."""

_STEER = 8.0
"""Exact in bfloat16, far above what the gate's other weights add to a logit, and not far outside normal inputs."""


@dataclass(frozen=True)
class Case:
    """One layer and its input sets.

    Args:
        layer: Layer in bfloat16.
        tokens: Input sets, each ``[tokens, D]``.
        logits: Gate logits of each input set.
        table: Tile table to use instead of the package's.
    """

    layer: ACMLayer
    tokens: list[torch.Tensor]
    logits: list[torch.Tensor]
    table: tuple[Entry, ...] | None = None

    @property
    def problem(self) -> Problem:
        """Shapes of one call."""
        spec = self.layer.spec
        return Problem(len(self.tokens[0]), spec.model_dim, spec.hidden_dim, spec.num_learners, 0, 2)

    @cached_property
    def entry(self) -> Entry:
        """Tile sizes that a call uses."""
        device = self.tokens[0].device
        packed = launch.usable_pack(device) is not None
        return choose(self.table, launch.architecture(device), self.problem, packed=packed)

    def run(self, x: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Y and counts of the op."""
        if self.table is None:
            return self.layer.run(x, logits)
        layer = self.layer
        weights = (layer.thresholds, layer.w1, layer.b1, layer.w2, layer.b2)
        return launch.gated_learners(x, logits, *weights, layer.spec.signature, entry=self.entry)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The whole layer: gate and op."""
        y = self.layer(x) if self.table is None else self.run(x, self.layer.gate_logits(x))[0]
        return torch.as_tensor(y)

    def op(self) -> Rotation:
        """The op without its gate."""
        return Rotation(
            [lambda x=x, z=z: self.run(x, z) for x, z in zip(self.tokens, self.logits, strict=True)]  # type: ignore[misc]
        )

    def calls(self, function: Callable[[torch.Tensor], object]) -> Rotation:
        """Calls of any other function of the same tokens."""
        return Rotation([lambda x=x: function(x) for x in self.tokens])  # type: ignore[misc]

    def counts(self) -> list[torch.Tensor]:
        """Learner counts of each input set, as the op returns them."""
        return [self.run(x, z)[1] for x, z in zip(self.tokens, self.logits, strict=True)]

    def share(self) -> float:
        """Mean of count / N."""
        return float(torch.stack([c.float().mean() for c in self.counts()]).mean()) / self.layer.spec.num_learners


def case(
    sizes: Sizes,
    tokens: int,
    share: float,
    seed: int = 0,
    *,
    device: str = "cuda",
    layer: ACMLayer | None = None,
    table: tuple[Entry, ...] | None = None,
) -> Case:
    """A layer in bfloat16 and inputs whose learner counts are drawn from binomial(N, share), token by token.

    Args:
        sizes: D, h, N.
        tokens: Number of tokens in an input set.
        share: Expected mean of count / N.
        seed: Seed of counts and inputs.
        device: Device of all tensors.
        layer: Layer from :func:`steered_layer`; a new one by default.
        table: Tile table to use instead of the package's.
    """
    layer = layer or steered_layer(sizes, device)
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    model_dim, _, learners = sizes
    sets = []
    for _ in range(SETS):
        x = torch.randn(tokens, model_dim, generator=generator, device=device).bfloat16()
        wanted = torch.from_numpy(rng.binomial(learners, share, tokens)).to(device)
        x[:, : learners + 1] = _STEER * torch.nn.functional.one_hot(wanted, learners + 1)
        sets.append(x)
    with torch.no_grad():
        return Case(layer, sets, [layer.gate_logits(x) for x in sets], table)


@torch.no_grad()
def steered_layer(sizes: Sizes, device: str) -> ACMLayer:
    """A layer in bfloat16 with random weights and biases whose gate reads the wanted count from the token."""
    model_dim, hidden_dim, learners = sizes
    layer = ACMLayer(ACMSpec(model_dim=model_dim, num_learners=learners, hidden_dim=hidden_dim))
    layer.b1.normal_()
    layer.b2.normal_()
    choices = learners + 1
    gate: Any = layer.gate.linears[0]
    gate.weight.normal_(std=1e-3)
    gate.weight[:, :choices] = torch.eye(choices)
    gate.bias.zero_()
    return layer.to(device).bfloat16().eval()


def read_table(path: Path) -> tuple[Entry, ...]:
    """The tile table of a file."""
    return tiles.parse(json.loads(path.read_text()))


def choose(table: tuple[Entry, ...] | None, arch: str, problem: Problem, *, packed: bool = False) -> Entry:
    """The entry of a table (by default the package's) for bfloat16 and aligned shapes."""
    return tiles.select(arch, "half", problem, aligned=True, packed=packed, table=table)
