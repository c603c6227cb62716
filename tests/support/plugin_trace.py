"""Print what a harness library computes and launches: ``plugin_trace.py LIBRARY DRIVER``, as one JSON document.

Run on each processor by test_plugin_aarch64.py, which compares the results. Needs only the standard library.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from plugin_cases import GLU_CASES, QUANTIZED_CASES, Case
from plugin_core import Driver
from plugin_harness import Harness, fields_of

CASES = (
    [
        Case(leading=leading, dtype=dtype, model_dim=model_dim, num_learners=learners)
        for leading in ((1,), (2, 50), (9, 3000), (0, 3))
        for dtype in ("float16", "float32")
        for model_dim in (64, 65)
        for learners in (1, 4, 64)
    ]
    + QUANTIZED_CASES
    + GLU_CASES
)
DEVICES = (((9, 0), False), ((8, 7), True), ((12, 1), True), ((7, 5), False))
"""Compute capability, and whether the GPU is integrated; the last has no kernels."""


def traced(harness: Harness, driver: Driver, case: Case) -> dict[str, Any]:
    """One plugin from its fields to its launches, and the reasons of what is refused on the way."""
    made = harness.create(fields_of(case), case.operator)
    if made is None:
        return {"refused": harness.take_log()}
    largest = replace(case, leading=tuple(4 * size + 1 for size in case.leading))
    profile = [shapes.tensors() for shapes in (case, case, largest)]
    result: dict[str, Any] = {
        "supports": [made.supports(pos, case.tensors()) for pos in range(len(case.names))],
        "types": made.output_types(case.tensors()),
        "shapes": made.output_shapes(case.tensors()),
        "configured": made.configure(*profile),
        "workspace": made.workspace(*profile),
        "tactics": made.tactics(),
        "timing": made.timing_id(),
    }
    loaded = made.clone().round_trip().attach()
    result["ready"] = loaded.change_shapes(case.tensors())
    result["enqueued"] = loaded.enqueue(case.tensors())
    result["wrong"] = [loaded.enqueue(case.tensors(**{name: (3, 3, 3)})) for name in case.names]
    result["launches"] = [astuple(launch) for launch in driver.launches()]
    return result | {"log": harness.take_log()}


def main(library: Path, driver_library: Path) -> None:
    driver, harness = Driver(driver_library), Harness(library, driver_library)
    trace: dict[str, Any] = {"bad fields": []}
    for change in ({"activation": None}, {"num_learners": 99}, {"activation": b"x" * 5000}, {"y": 1}):
        trace["bad fields"].append(harness.create(fields_of(CASES[0], **change)) is None)
        trace["bad fields"].append(harness.take_log())
    for capability, integrated in DEVICES:
        driver.reset(capability, integrated=integrated)
        driver.context(0x1000 + capability[0] * 16 + capability[1], capability[0] * 16 + capability[1])
        for case in CASES:
            trace[f"{capability} {case}"] = traced(harness, driver, case)
    sys.stdout.write(json.dumps(trace) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
