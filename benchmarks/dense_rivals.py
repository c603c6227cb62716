"""The dense MLP, Linear-GELU-Linear, in every way that PyTorch offers: eager, fused, compiled, float8 and int8.

All functions take tokens ``[tokens, D]`` and weights as the op has them (W1 ``[D, width]``, W2 ``[width, D]``), in any
memory layout. The scales of float8 and int8 are fixed beforehand from sample inputs, as in a calibrated model.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from acm_export.modules import ACMLayer

    Dense = Callable[[torch.Tensor], torch.Tensor]

_FLOAT8_MAX = 448.0
_INT8_MAX = 127.0


class Weights(NamedTuple):
    """Weights of a dense MLP."""

    w1: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor
    b2: torch.Tensor

    @classmethod
    def of(cls, layer: ACMLayer) -> Weights:
        """All learners of a layer in the op's layout: rows of W1 and W2 are contiguous, as in ``layer.dense()``."""
        return cls(layer.w1.detach(), layer.b1.detach(), layer.w2.detach(), layer.b2.detach()[-1])

    def out_in(self) -> Weights:
        """The same values in the layout of ``nn.Linear``: (out, in) is contiguous."""
        return Weights(_columns(self.w1), self.b1, _columns(self.w2), self.b2)

    def narrowed(self, width: int) -> Weights:
        """The first ``width`` hidden values alone."""
        return Weights(self.w1[:, :width].contiguous(), self.b1[:width], self.w2[:width], self.b2)


def eager(x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor) -> torch.Tensor:
    """Two matrix products and a GELU between them."""
    return torch.addmm(b2, F.gelu(torch.addmm(b1, x, w1)), w2)


def fused(x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor) -> torch.Tensor:
    """The GELU inside the first product: on a GPU cuBLASLt's tanh approximation, on a CPU the exact one."""
    return torch.addmm(b2, torch._addmm_activation(b1, x, w1, use_gelu=True), w2)  # noqa: SLF001


def plain_rivals(weights: Weights) -> dict[str, Dense]:
    """The variants that need no compiler, each with both layouts of the weights."""
    layouts = {"": weights, ", weights (out, in)": weights.out_in()}
    return {
        f"{name}{layout}": with_weights(function, given)
        for layout, given in layouts.items()
        for name, function in (("eager", eager), ("fused GELU", fused))
    }


def with_weights(function: Callable[..., torch.Tensor], arguments: Sequence[torch.Tensor]) -> Dense:
    """A function of tokens alone."""
    return lambda x: function(x, *arguments)


def compiled_rival(weights: Weights, mode: str | None, sample: torch.Tensor, seconds: float) -> Dense:
    """``torch.compile`` of the eager MLP, compiled for the shape of ``sample``.

    Raises:
        TimeoutError: Compilation takes longer than ``seconds``.
    """
    function = torch.compile(eager, mode=mode, dynamic=False)
    with time_limit(seconds):
        function(sample, *weights)
    return with_weights(function, weights)


class Quantised(NamedTuple):
    """Weights in 8 bits with their scales, and the scales of inputs and hidden values (all scales float32)."""

    w1: torch.Tensor
    w1_scale: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor
    w2_scale: torch.Tensor
    b2: torch.Tensor
    x_scale: torch.Tensor
    hidden_scale: torch.Tensor

    @classmethod
    def to_float8(cls, weights: Weights, sample: torch.Tensor) -> Quantised:
        """Weights in e4m3, one scale for each tensor; ranges of inputs and hidden values from a sample."""
        scales = (_largest(weights.w1) / _FLOAT8_MAX, _largest(weights.w2) / _FLOAT8_MAX)
        return cls._of(weights, sample, scales, _to_float8, _FLOAT8_MAX)

    @classmethod
    def to_int8(cls, weights: Weights, sample: torch.Tensor) -> Quantised:
        """Weights in int8, one scale for each output; ranges of inputs and hidden values from a sample."""
        scales = tuple(w.float().abs().amax(0) / _INT8_MAX for w in (weights.w1, weights.w2))
        return cls._of(weights, sample, scales, _to_int8, _INT8_MAX)

    @classmethod
    def _of(
        cls,
        weights: Weights,
        sample: torch.Tensor,
        scales: tuple[torch.Tensor, ...],
        convert: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        largest: float,
    ) -> Quantised:
        hidden = F.gelu(torch.addmm(weights.b1, sample, weights.w1))
        w1, w2 = (_columns(convert(w, scale)) for w, scale in zip((weights.w1, weights.w2), scales, strict=True))
        return cls(
            w1, scales[0], weights.b1, w2, scales[1], weights.b2, _largest(sample) / largest, _largest(hidden) / largest
        )


def float8(x: torch.Tensor, *quantised: torch.Tensor) -> torch.Tensor:
    """Both products in e4m3 with bfloat16 results; the arguments after x are those of :class:`Quantised`."""
    weights, product = Quantised(*quantised), torch._scaled_mm  # noqa: SLF001
    up = product(
        _to_float8(x, weights.x_scale),
        weights.w1,
        weights.x_scale,
        weights.w1_scale,
        bias=weights.b1,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    hidden = _to_float8(F.gelu(up.float()), weights.hidden_scale)
    return product(
        hidden,
        weights.w2,
        weights.hidden_scale,
        weights.w2_scale,
        bias=weights.b2,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )


def int8(x: torch.Tensor, *quantised: torch.Tensor) -> torch.Tensor:
    """Both products in int8 with int32 sums; the arguments after x are those of :class:`Quantised`."""
    weights, product = Quantised(*quantised), torch._int_mm  # noqa: SLF001
    up = product(_to_int8(x, weights.x_scale), weights.w1).float() * (weights.x_scale * weights.w1_scale) + weights.b1
    hidden = _to_int8(F.gelu(up), weights.hidden_scale)
    down = product(hidden, weights.w2).float() * (weights.hidden_scale * weights.w2_scale) + weights.b2
    return down.to(x.dtype)


def _to_float8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(torch.float8_e4m3fn)


def _to_int8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() / scale).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.float().abs().max()


def _columns(w: torch.Tensor) -> torch.Tensor:
    """The same matrix with contiguous columns."""
    return w.t().contiguous().t()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt a block of the main thread that takes too long.

    Raises:
        TimeoutError: The block took longer. It is raised again every second, for code that catches the first.
    """
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise TimeoutError(limit)

    limit = f"takes longer than {seconds:.0f} s"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1), 1.0)
    try:
        yield
    except Exception as error:
        if interrupted:  # a compiler wraps the exception that interrupts it
            raise TimeoutError(limit) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
