"""A whole ViT in PyTorch: with ACM layers at several shares against the dense model, both compiled; and dense in int8.

Every side runs as CUDA graphs over rotating images (device_timing.py). One captured ACM model serves all shares:
thresholds are tensors that the graph reads when it runs, so they are set in place. Weights and images are random, so
times are meaningful and outputs are not; the accuracy of int8 is not measured.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from device_timing import DeviceTiming, Rotation, interleaved
from random_vit import random_vit
from torch import nn
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters

from acm_export.modules import acm_layers
from acm_export.op.routing import learner_counts, margins

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from random_vit import Shape

    from acm_export.modules import ACMLayer

T = TypeVar("T")

SHARES = (0.5, 1.0, 0.25, 0.75)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
IMAGE_SETS = 3
"""Image sets that rotate."""

_INT8_MAX = 127.0
_RECOMPILE_LIMIT = 64
"""Three models with one ``forward``, each compiled for every batch size: beyond the limit, 8 by default, PyTorch runs
them without compiling and only logs it."""


@dataclass(frozen=True)
class Row:
    """One model at one batch size, compared with the compiled dense model.

    Args:
        batch: Images in a call.
        model: ``ACM`` or ``dense int8``.
        share: Fraction of the margins that the thresholds let pass; None without ACM layers.
        budget: β as run, mean over the images.
        us: Microseconds of one call on the device.
        dense_us: Microseconds of the dense model in the same rounds.
        ratio: Time ÷ that of the dense model, median over the rounds.
        ratio_q25: Lower quartile.
        ratio_q75: Upper quartile.
        images_per_s: Images in a second.
        dense_images_per_s: Images per second of the dense model.
    """

    batch: int
    model: str
    share: float | None
    budget: float | None
    us: float
    dense_us: float
    ratio: float
    ratio_q25: float
    ratio_q75: float
    images_per_s: float
    dense_images_per_s: float


def row(
    batch: int, model: str, timing: DeviceTiming, *, share: float | None = None, budget: float | None = None
) -> Row:
    """Make a row from a timing."""
    return Row(
        batch,
        model,
        share,
        budget,
        timing.us,
        timing.baseline_us,
        timing.ratio,
        timing.ratio_q25,
        timing.ratio_q75,
        1e6 * batch / timing.us,
        1e6 * batch / timing.baseline_us,
    )


@dataclass(frozen=True)
class Problem:
    """A measurement that is missing or not as intended, with the reason."""

    batch: int
    step: str
    reason: str


@dataclass
class Measured:
    """Rows and problems so far."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The results, with the number of graph breaks in PyTorch's compilation."""
        return asdict(self) | {"graph_breaks": sum(counters["graph_break"].values())}


class GateHook:
    """A forward hook of a gate that counts the learners its tokens run.

    Args:
        layer: Layer that the gate belongs to.
        executed: Gets the executed share of each pass.
        share: First set the thresholds of the layer so that this share of the margins passes; None to keep them.
    """

    def __init__(self, layer: ACMLayer, executed: list[float], share: float | None) -> None:
        self._layer, self._executed, self._share = layer, executed, share

    def __call__(self, _gate: nn.Module, _args: object, logits: torch.Tensor) -> None:
        """Read the gate logits of one pass."""
        z, layer = logits.float().cpu().numpy(), self._layer
        if self._share is not None:
            tau = -np.inf if self._share == 1 else float(np.quantile(margins(z), 1 - self._share))
            layer.thresholds.fill_(tau)
        counts = learner_counts(z, layer.thresholds.cpu().numpy(), layer.spec.min_learners)
        self._executed.append(float(counts.mean()) / layer.spec.num_learners)


def _pass_through(model: nn.Module, images: torch.Tensor, share: float | None) -> float:
    executed: list[float] = []
    hooks = [(layer, GateHook(layer, executed, share)) for _, layer in acm_layers(model)]
    handles = [layer.gate.register_forward_hook(hook) for layer, hook in hooks]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return float(np.mean(executed))


def route(model: nn.Module, images: torch.Tensor, share: float) -> float:
    """Set the thresholds of every layer, in the order in which they run; returns β of these images."""
    return _pass_through(model, images, share)


def budget(model: nn.Module, image_sets: Sequence[torch.Tensor]) -> float:
    """β of a model with the thresholds that it has, mean over image sets of equal size."""
    return float(np.mean([_pass_through(model, images, None) for images in image_sets]))


class Int8Linear(nn.Module):
    """A linear map in int8: weights with a scale for each output, activations with a scale for each token.

    Args:
        linear: The map; input and output widths are multiples of 8, and calls have more than 16 rows.
    """

    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1) / _INT8_MAX
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., in]`` to ``[..., out]`` of the same dtype."""
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-6) / _INT8_MAX
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.weight.t())  # noqa: SLF001
        y = product.float() * scale * self.scale
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])


def int8(model: nn.Module) -> nn.Module:
    """A copy of a dense model with every linear map except the classifier in int8."""
    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        if isinstance(module, nn.Linear) and name != "classifier":
            copy.set_submodule(name, Int8Linear(module))
    return copy


class HostRotation(Rotation):
    """The same on a CPU, by the clock: to try out the program, not to measure."""

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._calls = calls

    def block_us(self, runs: int) -> float:
        """Microseconds of one of a few runs."""
        start = time.perf_counter()
        for _ in range(min(runs, 2)):
            self._calls[0]()
        return 1e6 * (time.perf_counter() - start) / min(runs, 2)


class ViTBenchmark:
    """Measures batch after batch; a step that fails or misses the deadline is recorded and does not stop others.

    Args:
        shape: Shape of both models.
        dtype: Dtype of the models; gates stay float32.
        device: ``cuda``, or ``cpu`` to try the program.
        rounds: Timing rounds of each row.
        deadline: Time after which no step begins (``time.monotonic()``).
        save: Function called with all results so far after each step.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        device: str,
        rounds: int,
        deadline: float,
        save: Callable[[Measured], object],
    ) -> None:
        self._dtype, self._device, self._rounds = dtype, device, rounds
        self._deadline, self._save = deadline, save
        self._acm, self._dense = (random_vit(shape, acm=acm).to(device, dtype) for acm in (True, False))
        self._compiled: dict[str, Callable[[torch.Tensor], object]] = {}
        self.measured = Measured()

    def run(self, batches: Sequence[int]) -> Measured:
        """ACM models at every batch size, then dense int8 at every batch size."""
        counters.clear()
        with torch.no_grad(), dynamo_config.patch(recompile_limit=_RECOMPILE_LIMIT):
            for batch in batches:
                self._step(batch, "ACM", partial(self._acm_rows, batch))
            for batch in batches:
                self._step(batch, "dense int8", partial(self._int8_row, batch))
        return self.measured

    def _acm_rows(self, batch: int) -> None:
        image_sets = self._images(batch)
        dense = self._rotation(batch, "dense", self._dense, image_sets)
        acm = self._rotation(batch, "ACM", self._acm, image_sets)
        for share in SHARES:
            self._attempt(batch, f"ACM, share {share:g}", partial(self._acm_row, batch, share, image_sets, acm, dense))

    def _acm_row(
        self, batch: int, share: float, image_sets: Sequence[torch.Tensor], acm: Rotation, dense: Rotation
    ) -> None:
        route(self._acm, image_sets[0], share)
        beta = budget(self._acm, image_sets)
        timing = interleaved({share: acm}, dense, rounds=self._rounds)[share]
        self.measured.rows.append(row(batch, "ACM", timing, share=share, budget=beta))

    def _int8_row(self, batch: int) -> None:
        image_sets = self._images(batch)
        dense = self._rotation(batch, "dense", self._dense, image_sets)
        quantised = self._rotation(batch, "dense int8", int8(self._dense), image_sets)
        timing = interleaved({0: quantised}, dense, rounds=self._rounds)[0]
        self.measured.rows.append(row(batch, "dense int8", timing))

    def _step(self, batch: int, name: str, run: Callable[[], None]) -> None:
        """An attempt that compiles models, unless the time is up."""
        if time.monotonic() < self._deadline:
            self._attempt(batch, name, run)
        else:
            self._report(batch, name, "not measured: the time given with --seconds was used up")
            self._save(self.measured)

    def _attempt(self, batch: int, name: str, run: Callable[[], None]) -> None:
        print(f"batch {batch}, {name}", flush=True)
        try:
            run()
            if self._device == "cuda":
                torch.cuda.empty_cache()
        except Exception as error:  # noqa: BLE001  the other steps still run
            self._report(batch, name, _line(error))
        self._save(self.measured)

    def _report(self, batch: int, step: str, reason: str) -> None:
        print(f"batch {batch}, {step}: {reason}", flush=True)
        self.measured.problems.append(Problem(batch, step, reason))

    def _rotation(self, batch: int, name: str, model: nn.Module, image_sets: Sequence[torch.Tensor]) -> Rotation:
        """The compiled model captured on each image set; without ``torch.compile`` if that fails."""
        kind = Rotation if self._device == "cuda" else HostRotation
        if name not in self._compiled:
            backend = "inductor" if self._device == "cuda" else "eager"
            self._compiled[name] = torch.compile(model, dynamic=False, backend=backend)
        compiled, start = self._compiled[name], time.monotonic()
        try:
            compiled(image_sets[0])
            print(f"batch {batch}, {name}: compiled in {time.monotonic() - start:.0f} s", flush=True)
            return kind([partial(compiled, images) for images in image_sets])
        except Exception as error:  # noqa: BLE001  compilers may raise anything
            self._report(batch, name, f"runs without torch.compile: {_line(error)}")
        return kind([partial(model, images) for images in image_sets])

    def _images(self, batch: int) -> list[torch.Tensor]:
        """Image sets ``[batch, 3, 224, 224]``: a coarse random field for each image, and noise."""
        generator = torch.Generator(self._device).manual_seed(0)
        normal = partial(torch.randn, generator=generator, device=self._device)
        coarse = normal(IMAGE_SETS, batch, 3, 14, 14).repeat_interleave(16, -1).repeat_interleave(16, -2)
        return list((coarse + 0.3 * normal(coarse.shape)).to(self._dtype))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
