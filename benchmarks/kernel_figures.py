"""The figures of the op: time ÷ dense MLP, rate, routing, time against work, energy.

Each function is one part of kernels.py: it measures and adds rows to the report.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from device_timing import Rotation, runs_for
from kernel_bench import PEAK, TOLERANCE
from kernel_report import Must, Row, UnavailableError, reason_of, unmeasured
from skipping_rivals import Learners, Routed, masked_loop, relative_error
from tile_candidates import describe

from acm_export.plugins.kernels import launch
from acm_export.plugins.kernels.tiles import entries
from acm_export.plugins.kernels.work import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_bench import Bench
    from kernel_cases import Case

    from acm_export.plugins.kernels.tiles import Entry

LINE = "line"


def peak(bench: Bench) -> None:
    """Measured limits of the GPU: bfloat16 FLOP/s of a large matrix product, and bytes/s (read + written) of a copy."""
    bench.peak()
    size = bench.setting.copy_bytes
    a, b = (torch.randint(256, (size,), dtype=torch.uint8, device=bench.setting.device) for _ in range(2))
    us = bench.us(Rotation([lambda: b.copy_(a)]))
    bench.report.add(Row(PEAK, f"copy of {size >> 20} MiB", us, facts={"tb_per_s": 2 * size / us / 1e6}))


def dense(bench: Bench) -> None:
    """The dense MLP of equal size in every variant, on a batch and on one image."""
    modes = {"compiled": None, "compiled, max-autotune": "max-autotune-no-cudagraphs"}
    bench.compare_dense(bench.setting.batch, modes, min(35.0, bench.report.seconds_left / 4))
    bench.compare_dense(bench.setting.image, {"compiled": None}, 20.0)


def gated(bench: Bench, tokens: int, share: float, limit: float | None = None) -> None:
    """Gate + op ÷ dense, and the op and the gate alone.

    Args:
        bench: State of the run.
        tokens: Number of tokens in an input set.
        share: Share of the learners.
        limit: Largest ratio allowed for gate + op, or None.

    Raises:
        ValueError: The layer computes wrong values, or runs a different share of the learners.
    """
    given = bench.case(tokens, share)
    found, error = given.share(), op_error(given)
    if not error < TOLERANCE or abs(found - share) > 0.02 + tokens**-0.5:
        raise ValueError(f"relative error {error:.3g}, share of the learners {found:.3f}, expected {share}")
    sides = {"gate + op": given.calls(given.forward), "op": given.op(), "gate": given.calls(given.layer.gate_logits)}
    timings = bench.compare(sides, given.calls(bench.dense(tokens)))
    for side, timing in timings.items():
        must = Must(timing.ratio, limit) if limit is not None and side == "gate + op" else None
        facts = {"tokens": tokens, "asked": share, "share": found, "error": error, **asdict(timing)}
        what = f"{side}, {tokens} tokens, share {share:.2f}"
        bench.report.add(Row("beside dense", what, timing.us, timing.ratio, must=must, facts=facts))


def op_error(given: Case) -> float:
    """Relative error of the whole layer on the first input set, against the masked loop."""
    x, num_learners = given.tokens[0], given.layer.spec.num_learners
    routed = Routed.of(x, given.logits[0].argmax(-1), num_learners)
    return relative_error(given.forward(x), masked_loop(routed, Learners.of(given.layer)))


def rate(bench: Bench) -> None:
    """Executed FLOP/s of a wide layer with all learners ÷ the peak."""
    setting = bench.setting
    given = bench.case(setting.batch, 1.0, setting.wide)
    if not (error := op_error(given)) < TOLERANCE:
        raise ValueError(f"relative error {error:.3g}")
    us = bench.us(given.op(), 5 * setting.block_ms)
    model_dim, hidden_dim, learners = setting.wide
    flops = setting.batch * learners * 4 * model_dim * hidden_dim / us * 1e6
    must = Must(flops / bench.peak(), 0.6, at_most=False)
    facts = {"tflops": flops / 1e12, "peak_tflops": bench.peak() / 1e12}
    bench.report.add(Row("rate", f"rate ÷ peak, D = {model_dim}, {setting.batch} tokens", us, must=must, facts=facts))


def routing(bench: Bench) -> None:
    """Routing alone: counts, order and reach."""
    for tokens, limit in ((bench.setting.image, None), (bench.setting.batch, 15.0)):
        given = bench.case(tokens, 0.5)
        space = launch.Space(given.problem, torch.bfloat16, given.tokens[0].device)
        counts = torch.empty(tokens, dtype=torch.int32, device=bench.setting.device)
        thresholds = given.layer.thresholds
        us = bench.us(
            Rotation([partial(launch.route, given.problem, z, thresholds, counts, space) for z in given.logits])
        )
        must = Must(us, limit) if limit else None
        bench.report.add(Row("routing", f"routing alone, {tokens} tokens", us, must=must))


def table_entries(bench: Bench) -> None:
    """The op with every entry of the tile table that can run it ÷ the op with the chosen entry, at share 0.5.

    Raises:
        UnavailableError: On a CPU, which has no entries.
    """
    if bench.setting.device == "cpu":
        raise UnavailableError("the tile table is for GPUs")
    for tokens in bench.setting.between:
        chosen = bench.case(tokens, 0.5)
        for entry in entries_that_run(chosen):
            given = replace(chosen, table=(entry,))
            what = f"op, {tokens} tokens, {entry.language}: {describe(entry)}"
            try:
                if not (error := op_error(given)) < TOLERANCE:
                    raise ValueError(f"relative error {error:.3g}")  # noqa: TRY301
                timing = bench.compare({what: given.op()}, chosen.op())[what]
            except Exception as error:  # noqa: BLE001  the other entries still run
                bench.report.add(unmeasured("entries", what, error))
            else:
                facts = {"tokens": tokens, "entry": asdict(entry), **asdict(timing)}
                bench.report.add(Row("entries", what, timing.us, timing.ratio, "chosen", facts=facts))


def entries_that_run(given: Case) -> list[Entry]:
    """Entries of the table for this GPU that can run a case and are not chosen, for any token count."""
    device = given.tokens[0].device
    arch, packed = launch.architecture(device), launch.usable_pack(device) is not None
    return [
        entry if entry.language == "cuda" else replace(entry, max_tokens=None)  # CUDA entries are looked up by position
        for entry in entries()
        if entry != given.entry
        and arch in entry.archs
        and entry.precision == "half"
        and (packed or entry.language == "triton")
        and entry.can_run(given.problem, aligned=True)
    ]


def line(bench: Bench) -> None:
    """Time of the op against executed multiply-adds: least squares over several shares."""
    executed, measured = [], []
    for share in np.linspace(0.1, 1, bench.setting.points).tolist():
        given = bench.case(bench.setting.batch, share)
        done = [work(given.problem, given.entry, counts.cpu().numpy()).executed for counts in given.counts()]
        executed.append(float(np.mean(done)))
        measured.append(bench.us(given.op()))
        facts = {"share": share, "executed": executed[-1]}
        bench.report.add(Row(LINE, f"op, share {share:.2f}", measured[-1], facts=facts))
    fit = fitted(np.array(executed), np.array(measured))
    must = Must(fit["r2"], 0.99, at_most=False)
    bench.report.add(Row(LINE, "R² of time against executed multiply-adds", must=must, facts=fit))


def fitted(x: np.ndarray[Any, Any], us: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Least squares of microseconds over x: ``fixed_us``, ``us_per_x``, ``residuals_us``, ``r2``."""
    slope, fixed = np.polyfit(x, us, 1)
    residuals = us - (fixed + slope * x)
    r2 = 1 - (residuals**2).sum() / ((us - us.mean()) ** 2).sum()
    return {"fixed_us": float(fixed), "us_per_x": float(slope), "residuals_us": residuals.tolist(), "r2": float(r2)}


def energy(bench: Bench) -> None:
    """Energy of one call from the energy counter of the GPU; it includes idle power."""
    counter = energy_counter()
    tokens, shares = bench.setting.batch, [s for s in bench.setting.shares if s != 0.75]
    cases = {f"gate + op, share {share:.2f}": bench.case(tokens, share) for share in shares}
    given = next(iter(cases.values()))
    dense_mj = _millijoules(bench, given.calls(bench.dense(tokens)), counter)
    bench.report.add(Row("energy", "energy of dense", ratio=1.0, facts={"mj_per_call": dense_mj}))
    for name, given in cases.items():
        mj = _millijoules(bench, given.calls(given.forward), counter)
        bench.report.add(Row("energy", f"energy of {name}", ratio=mj / dense_mj, facts={"mj_per_call": mj}))


def _millijoules(bench: Bench, rotation: Rotation, counter: Callable[[], int]) -> float:
    runs = runs_for(rotation, 1e3 * bench.setting.energy_seconds)
    before = counter()
    rotation.block_us(runs)
    return (counter() - before) / runs


def energy_counter() -> Callable[[], int]:
    """A function that reads the energy, in mJ, used by the GPU since its driver was loaded.

    Raises:
        UnavailableError: pynvml is not installed, or the GPU has no energy counter.
    """
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        if pynvml.nvmlDeviceGetCount() == 1:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:
        raise UnavailableError(f"no energy counter: {reason_of(error)}") from error
    return lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
