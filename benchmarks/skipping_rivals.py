"""Other ways to run a prefix of the learners for each token, in plain PyTorch.

None of them computes the routing: the counts, the order of the tokens and the number of tokens of each learner are
given. A real model has to compute them and to wait for the GPU to read these numbers. The op computes its own routing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.modules import ACMLayer

    Elementwise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Routed:
    """One input set and its routing.

    Args:
        x: ``[tokens, D]``.
        counts: Learners of each token, int64.
        order: Tokens by count, descending, int64.
        totals: Number of tokens that run each learner.
        rows: Tokens that run learner 1, then those that run learner 2, and so on, int64 ``[sum of totals]``.
        learners: Learner of each of these rows, int64.
        ends: End of each learner's rows, exclusive, int32 ``[N]``.
    """

    x: torch.Tensor
    counts: torch.Tensor
    order: torch.Tensor
    totals: list[int]
    rows: torch.Tensor
    learners: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, counts: torch.Tensor, num_learners: int) -> Routed:
        """Routing for counts ``[tokens]`` that the op returned."""
        counts = counts.long()
        order = torch.argsort(counts, descending=True, stable=True)
        totals = [int((counts > learner).sum()) for learner in range(num_learners)]
        sizes = torch.tensor(totals, device=x.device)
        rows = torch.cat([order[:total] for total in totals])
        learners = torch.repeat_interleave(torch.arange(num_learners, device=x.device), sizes)
        return cls(x, counts, order, totals, rows, learners, sizes.cumsum(0).int())


@dataclass(frozen=True)
class Learners:
    """Weights of a layer, as the op has them and stacked by learner.

    Args:
        w1: ``[D, N*h]``.
        b1: ``[N*h]``.
        w2: ``[N*h, D]``.
        b2: ``[N+1, D]``.
        stacked_w1: ``[N, D, h]``, contiguous along D.
        stacked_b1: ``[N, h]``.
        stacked_w2: ``[N, h, D]``, contiguous along h.
    """

    w1: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor
    b2: torch.Tensor
    stacked_w1: torch.Tensor
    stacked_b1: torch.Tensor
    stacked_w2: torch.Tensor

    @classmethod
    def of(cls, layer: ACMLayer) -> Learners:
        """The weights of a layer."""
        w1, b1, w2, b2 = (t.detach() for t in (layer.w1, layer.b1, layer.w2, layer.b2))
        spec = layer.spec
        d, n, h = spec.model_dim, spec.num_learners, spec.hidden_dim
        stacked_w1 = w1.view(d, n, h).permute(1, 2, 0).contiguous().transpose(1, 2)
        stacked_w2 = w2.view(n, h, d).transpose(1, 2).contiguous().transpose(1, 2)
        return cls(w1, b1, w2, b2, stacked_w1, b1.view(n, h), stacked_w2)

    def parts(self) -> list[slice]:
        """Columns of W1, and rows of W2, of each learner."""
        n, h = self.stacked_b1.shape
        return [slice(i * h, (i + 1) * h) for i in range(n)]


def masked_loop(routed: Routed, weights: Learners) -> torch.Tensor:
    """The published implementation: every learner runs on all tokens, and a mask drops unneeded results."""
    y = weights.b2[routed.counts]
    for learner, part in enumerate(weights.parts()):
        hidden = F.gelu(torch.addmm(weights.b1[part], routed.x, weights.w1[:, part]))
        y = y + (routed.counts > learner).unsqueeze(1) * (hidden @ weights.w2[part])
    return y


def one_product_per_learner(routed: Routed, weights: Learners) -> torch.Tensor:
    """Sort the tokens; each learner is two products, with the GELU inside the first, on the tokens that run it."""
    x, sums = routed.x[routed.order], weights.b2[routed.counts[routed.order]]
    for part, total in zip(weights.parts(), routed.totals, strict=True):
        hidden = torch._addmm_activation(weights.b1[part], x[:total], weights.w1[:, part], use_gelu=True)  # noqa: SLF001
        sums[:total].addmm_(hidden, weights.w2[part])
    return torch.empty_like(sums).index_copy_(0, routed.order, sums)


def bias_gelu(up: torch.Tensor, biases: torch.Tensor, learners: torch.Tensor) -> torch.Tensor:
    """GELU of each row plus the bias of its learner; fast only when compiled."""
    return F.gelu(up + biases[learners])


def grouped_products(routed: Routed, weights: Learners, elementwise: Elementwise = bias_gelu) -> torch.Tensor:
    """Two grouped matrix products of PyTorch, as a mixture of experts uses them, with one group for each learner.

    Args:
        routed: Input set.
        weights: Weights of the layer.
        elementwise: :func:`bias_gelu`, possibly compiled.
    """
    product = grouped_mm()
    up = product(routed.x[routed.rows], weights.stacked_w1, offs=routed.ends)
    down = product(elementwise(up, weights.stacked_b1, routed.learners), weights.stacked_w2, offs=routed.ends)
    sums, first = weights.b2[routed.counts[routed.order]], 0
    for total in routed.totals:
        sums[:total] += down[first : first + total]
        first += total
    return torch.empty_like(sums).index_copy_(0, routed.order, sums)


def grouped_mm() -> Any:
    """Return PyTorch's grouped matrix product.

    Raises:
        NotImplementedError: This PyTorch has none.
    """
    found = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if found is None:
        raise NotImplementedError(f"PyTorch {torch.__version__} has no grouped matrix product")
    return found


def relative_error(y: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference ÷ norm of the expected values."""
    return float((y.double() - expected.double()).norm() / expected.double().norm())
