"""Shared by all parts of kernels.py: the setting, layers, the report, the fastest dense MLP and the measured peak."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from dense_rivals import Weights, compiled_rival, eager, plain_rivals, with_weights
from device_timing import Rotation, interleaved, median_us
from kernel_cases import Case, Sizes, case, steered_layer
from kernel_report import Report, Row, unmeasured
from skipping_rivals import relative_error

from acm_export.modules.flops import linear_flops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dense_rivals import Dense
    from device_timing import DeviceTiming

    from acm_export.modules import ACMLayer
    from acm_export.plugins.kernels.tiles import Entry

TOLERANCE = 0.05
"""Relative error of bfloat16 by another order of sums, and of a GELU by its tanh approximation, is below 0.01."""

PEAK = "peak"
DENSE = "dense MLP"


@dataclass(frozen=True)
class Setting:
    """Shapes and lengths of a run.

    Args:
        sizes: D, h, N of the layer that most figures measure.
        wide: D, h, N of the layer whose rate is compared with the peak.
        batch: Number of tokens in a batch of images.
        image: Number of tokens in one image.
        few: Additional token counts, measured at share 0.5.
        between: Token counts at which every entry of the tile table is timed, to see where each is fastest.
        shares: Shares of the learners to measure.
        peak_size: Rows and columns of the matrices whose product measures the peak.
        copy_bytes: Bytes of the copy that measures bandwidth.
        rounds: Rounds of each measurement.
        block_ms: Milliseconds of a block.
        points: Number of shares in the fit of time against work.
        energy_seconds: Seconds over which energy is counted.
        device: Device of all tensors.
        table: Tile table to use instead of the package's.
    """

    sizes: Sizes = (768, 768, 4)
    wide: Sizes = (1280, 1280, 4)
    batch: int = 25216
    image: int = 197
    few: tuple[int, ...] = (1, 16, 64, 512)
    between: tuple[int, ...] = (197, 512, 1024, 1576, 3152, 6304)
    shares: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    peak_size: int = 8192
    copy_bytes: int = 1 << 30
    rounds: int = 7
    block_ms: float = 4.0
    points: int = 10
    energy_seconds: float = 1.2
    device: str = "cuda"
    table: tuple[Entry, ...] | None = None


QUICK: dict[str, Any] = {
    "sizes": (64, 64, 4),
    "wide": (128, 128, 4),
    "batch": 640,
    "image": 40,
    "few": (1, 16),
    "between": (40,),
    "shares": (1.0, 0.5),
    "peak_size": 256,
    "copy_bytes": 1 << 20,
    "rounds": 2,
    "block_ms": 0.5,
    "points": 3,
    "energy_seconds": 0.1,
}


@dataclass
class Bench:
    """State that the parts of a run share.

    Args:
        setting: Shapes and lengths.
        report: Report that the parts add rows to.
    """

    setting: Setting
    report: Report
    _layers: dict[Sizes, ACMLayer] = field(default_factory=dict)
    _dense: dict[int, Dense] = field(default_factory=dict)
    _peak: float | None = None

    def layer(self, sizes: Sizes) -> ACMLayer:
        """The layer of these sizes; all figures use the same weights."""
        if sizes not in self._layers:
            self._layers[sizes] = steered_layer(sizes, self.setting.device)
        return self._layers[sizes]

    def case(self, tokens: int, share: float, sizes: Sizes | None = None) -> Case:
        """Inputs for a layer, the usual one by default."""
        sizes, setting = sizes or self.setting.sizes, self.setting
        layer = self.layer(sizes)
        return case(sizes, tokens, share, device=setting.device, layer=layer, table=setting.table)

    def compare(self, cases: Mapping[str, Rotation], baseline: Rotation) -> dict[str, DeviceTiming]:
        """Time cases against a baseline."""
        return interleaved(cases, baseline, rounds=self.setting.rounds, block_ms=self.setting.block_ms)

    def us(self, rotation: Rotation, block_ms: float | None = None) -> float:
        """Microseconds of one run."""
        return median_us(rotation, rounds=self.setting.rounds, block_ms=block_ms or self.setting.block_ms)

    def peak(self) -> float:
        """FLOP/s of a large matrix product on random data, measured at the first call."""
        if self._peak is None:
            size, device = self.setting.peak_size, self.setting.device
            a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
            us = self.us(Rotation([lambda: a @ b]), 5 * self.setting.block_ms)
            self._peak = size * linear_flops(size, size) / us * 1e6
            what = f"matrix product, {size} x {size} x {size}"
            self.report.add(Row(PEAK, what, us, facts={"tflops": self._peak / 1e12}))
        return self._peak

    def dense(self, tokens: int) -> Dense:
        """The fastest compared dense MLP for this many tokens; by default the fastest without a compiler."""
        if tokens not in self._dense:
            self.compare_dense(tokens)
        return self._dense[tokens]

    def compare_dense(self, tokens: int, modes: Mapping[str, str | None] | None = None, seconds: float = 0) -> None:
        """Time the ways to run the dense MLP; the fastest is :meth:`dense` from then on.

        Args:
            tokens: Number of tokens in an input set.
            modes: Modes of ``torch.compile`` by name, to compare with the ways that need no compiler.
            seconds: Longest compilation of one mode; one that takes longer is skipped.
        """
        given = self.case(tokens, 1.0)
        weights = Weights.of(given.layer)
        self._dense[tokens] = with_weights(eager, weights)
        baseline = given.calls(self._dense[tokens])
        makers: dict[str, Callable[[], Dense]] = {
            name: partial(_as_it_is, function) for name, function in plain_rivals(weights).items()
        }
        for name, mode in (modes or {}).items():
            makers[name] = partial(compiled_rival, weights, mode, given.tokens[0], seconds)
        expected = eager(given.tokens[0], *weights)
        best = float("inf")
        for name, make in makers.items():
            what = f"{name}, {tokens} tokens"
            try:
                function = make()
                error = relative_error(function(given.tokens[0]), expected)
                if not error < TOLERANCE:
                    raise ValueError(f"relative error {error:.3g}")  # noqa: TRY301
                timing = self.compare({name: given.calls(function)}, baseline)[name]
            except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
                row = unmeasured(DENSE, what, error)
            else:
                row = Row(DENSE, what, timing.us, timing.ratio, "eager", facts={"error": error, **asdict(timing)})
                if timing.ratio < best:
                    best, self._dense[tokens] = timing.ratio, function
            self.report.add(row)


def _as_it_is(function: Dense) -> Dense:
    return function
