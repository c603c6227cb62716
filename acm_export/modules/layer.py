"""The ACM layer: a gate and N ordered learners that replace an MLP or a projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acm_export.base.errors import OpError
from acm_export.modules.activations import activation_fn
from acm_export.modules.float32 import keeping_float32
from acm_export.modules.gate import Gate
from acm_export.modules.gated_learners import gated_learners, glu_gated_learners
from acm_export.op.signature import ACTIVATIONS, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_MAX_SIZE = 1 << 24


@dataclass(frozen=True)
class ACMSpec:
    """Sizes, activations and gate of one ACM layer.

    Args:
        model_dim: D, the width of a token.
        num_learners: N, the number of learners.
        hidden_dim: h, the hidden width of one learner.
        min_learners: Learners that always run.
        activation: Activation of the learners.
        gate_hidden: Hidden widths of the gate; empty for a gate of one linear map.
        gate_activation: Activation between the linear maps of the gate.
        glu: Whether each learner multiplies its activations by a second linear map of the token, as SwiGLU does.
        channels_first: Whether the layer replaces 1x1 convolutions, and maps ``[batch, D, ...]``.

    Raises:
        OpError: A value is out of range.
    """

    model_dim: int
    num_learners: int
    hidden_dim: int
    min_learners: int = 0
    activation: str = "gelu"
    gate_hidden: tuple[int, ...] = ()
    gate_activation: str = "identity"
    glu: bool = False
    channels_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate_hidden", tuple(self.gate_hidden))
        self.signature  # noqa: B018  validates N, min_learners and the activation
        if not isinstance(self.channels_first, bool):
            raise OpError(f"channels_first is {self.channels_first!r}; it must be true or false")
        sizes = {
            "model_dim": (self.model_dim,),
            "hidden_dim": (self.hidden_dim,),
            "gate_hidden": self.gate_hidden,
        }
        for name, values in sizes.items():
            if not all(isinstance(value, int) and 1 <= value <= _MAX_SIZE for value in values):
                raise OpError(f"{name} is {getattr(self, name)}; expected integers from 1 to {_MAX_SIZE}")
        if self.gate_activation not in ACTIVATIONS:
            raise OpError(f"gate_activation is {self.gate_activation!r}; it must be one of {', '.join(ACTIVATIONS)}")

    @property
    def signature(self) -> Signature:
        """The operator of the layer's node and its attributes."""
        return Signature(self.num_learners, self.min_learners, self.activation, glu=self.glu)

    @property
    def gate_dims(self) -> tuple[int, ...]:
        """Widths through the gate, from D to C."""
        return (self.model_dim, *self.gate_hidden, self.signature.num_choices)


class ACMLayer(nn.Module):
    """The sum of the first k learners for each token, with k chosen by the gate (arXiv 2312.10193; docs/op.md).

    Maps tokens ``[..., D]`` to ``[..., D]``; with ``channels_first``, ``[batch, D, ...]``. ``thresholds`` (float32
    ``[N]``; zeros give the trained argmax) may be changed in place at any time; thresholds and gate stay float32 for
    every dtype of the layer. ``valid`` (bool ``[...]``, None for no padding) is False for padding, which runs
    ``min_learners``; the model sets it during its forward pass (acm_export/surgery/padding.py). ``v1`` ``[D, N*h]`` and
    ``c1`` ``[N*h]`` are None unless the spec has ``glu``.

    Args:
        spec: Sizes, activation and gate of the layer.
    """

    thresholds: torch.Tensor
    valid: torch.Tensor | None
    v1: nn.Parameter | None
    c1: nn.Parameter | None

    def __init__(self, spec: ACMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.valid = None
        self.emptied: tuple[str, ...] = ()
        """Names of the modules of the model that became identities when this layer was installed."""
        d, n, h = spec.model_dim, spec.num_learners, spec.hidden_dim
        self.gate = Gate(spec.gate_dims, spec.gate_activation)
        self.w1 = nn.Parameter(torch.empty(d, n * h))
        self.b1 = nn.Parameter(torch.zeros(n * h))
        self.register_parameter("v1", nn.Parameter(torch.empty(d, n * h)) if spec.glu else None)
        self.register_parameter("c1", nn.Parameter(torch.zeros(n * h)) if spec.glu else None)
        self.w2 = nn.Parameter(torch.empty(n * h, d))
        self.b2 = nn.Parameter(torch.zeros(n + 1, d))
        self.register_buffer("thresholds", torch.zeros(n, dtype=torch.float32))
        nn.init.normal_(self.w1, std=d**-0.5)
        if self.v1 is not None:
            nn.init.normal_(self.v1, std=d**-0.5)
        nn.init.normal_(self.w2, std=h**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens of the layer's dtype, ``[..., D]`` or with ``channels_first`` ``[batch, D, ...]``."""
        tokens = self.as_tokens(x)
        return self.as_output(self.run(tokens, self.gate_logits(tokens))[0])

    def as_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the layer as tokens ``[..., D]``."""
        return x.movedim(1, -1) if self.spec.channels_first else x

    def as_output(self, y: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., D]`` in the layout of the layer's input."""
        return y.movedim(-1, 1) if self.spec.channels_first else y

    def gate_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Gate logits of tokens ``[..., D]``: ``[..., C]``, float32.

        Padding gets 0 for the fewest learners and -inf for any other choice, so that its margins exceed no threshold,
        not even -inf.
        """
        z: torch.Tensor = self.gate(x)
        if self.valid is None or self.valid.shape != z.shape[:-1]:  # the mask of other tokens: a decoder's, a window's
            return z
        fewest = z.new_tensor([0.0] + [-torch.inf] * (z.shape[-1] - 1))
        return torch.where(self.valid.unsqueeze(-1), z, fewest)

    def run(self, x: torch.Tensor, gate_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute y ``[..., D]`` and counts ``[...]`` (int32) from tokens ``[..., D]`` and gate logits ``[..., C]``."""
        spec = self.spec
        attributes = (spec.num_learners, spec.min_learners, spec.activation)
        up = (x, gate_logits, self.thresholds, self.w1, self.b1)
        if self.v1 is not None and self.c1 is not None:
            y, counts = glu_gated_learners(*up, self.v1, self.c1, self.w2, self.b2, *attributes)
        else:
            y, counts = gated_learners(*up, self.w2, self.b2, *attributes)
        return y, counts

    def dense(self) -> nn.Module:
        """The layer with all learners and no gate, over the same weights: a two-layer MLP, or a GLU."""
        return _DenseMLP(self)

    def extra_repr(self) -> str:
        """Sizes of the layer, for ``print(model)``."""
        spec = self.spec
        sizes = f"D={spec.model_dim}, N={spec.num_learners}, h={spec.hidden_dim}, min_learners={spec.min_learners}"
        return f"{sizes}, activation={spec.activation}{', glu' if spec.glu else ''}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ACMLayer:
        thresholds = self.thresholds
        move: Any = super()._apply  # torch does not annotate it
        move(fn, recurse)
        self.thresholds = keeping_float32(fn)(thresholds)
        return self


class _DenseMLP(nn.Module):
    def __init__(self, layer: ACMLayer) -> None:
        super().__init__()
        width, d = layer.w2.shape
        self.up = nn.Linear(d, width, dtype=layer.w1.dtype, device="meta")
        self.down = nn.Linear(width, d, dtype=layer.w1.dtype, device="meta")
        self.up.weight = nn.Parameter(layer.w1.detach().T)
        self.up.bias = nn.Parameter(layer.b1.detach())
        self.value = None
        if layer.v1 is not None and layer.c1 is not None:
            self.value = nn.Linear(d, width, dtype=layer.w1.dtype, device="meta")
            self.value.weight = nn.Parameter(layer.v1.detach().T)
            self.value.bias = nn.Parameter(layer.c1.detach())
        self.down.weight = nn.Parameter(layer.w2.detach().T)
        self.down.bias = nn.Parameter(layer.b2.detach()[-1])
        self.activation, self.channels_first = layer.spec.activation, layer.spec.channels_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.movedim(1, -1) if self.channels_first else x
        hidden = activation_fn(self.activation)(self.up(tokens))
        if self.value is not None:
            hidden = hidden * self.value(tokens)
        y = torch.as_tensor(self.down(hidden))
        return y.movedim(-1, 1) if self.channels_first else y


def acm_layers(module: nn.Module) -> Iterator[tuple[str, ACMLayer]]:
    """Every ACM layer below ``module`` with its qualified name, in the order of registration."""
    for name, child in module.named_modules():
        if isinstance(child, ACMLayer):
            yield name, child
