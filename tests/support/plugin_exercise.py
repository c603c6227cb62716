"""Walk through a harness library, good calls and bad ones: ``plugin_exercise.py TARGET LIBRARY DRIVER``.

Run by test_plugin_sanitized.py in a process with sanitizers; what calls do is tested elsewhere.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from plugin_cases import Case, GluCase, QuantizedCase, QuantizedGluCase
from plugin_core import Core, Driver, pointers
from plugin_harness import Harness, fields_of

from acm_export.plugins.kernels.plan import MAX_TOKENS, Problem

CASES = [
    Case(leading=leading, dtype=dtype, model_dim=model_dim, num_learners=learners, allow_tf32=tf32)
    for leading in ((1,), (2, 50), (9, 3000), (0, 3))
    for dtype, tf32 in (("float16", False), ("float32", True))
    for model_dim in (64, 65)
    for learners in (1, 4, 64)
]
QUANTIZED_CASES = [
    QuantizedCase(leading=leading, dtype=dtype, model_dim=model_dim, num_learners=learners)
    for leading in ((1,), (2, 50), (9, 3000), (0, 3))
    for dtype, learners in (("float16", 3), ("float32", 64))
    for model_dim in (64, 65)
]
GLU_CASES = [
    kind(leading=leading, dtype=dtype, model_dim=model_dim, num_learners=3, activation="silu")
    for kind in (GluCase, QuantizedGluCase)
    for leading, dtype in (((1,), "float16"), ((2, 50), "float32"), ((9, 3000), "float16"), ((0, 3), "float16"))
    for model_dim in (64, 65)
]
HUGE = ((1 << 31) - 1, 1 << 62, (1 << 63) - 64, (1 << 63) - 1)


def exercise_core(core: Core) -> None:
    cases = [*CASES, *QUANTIZED_CASES, *GLU_CASES]
    for case in cases:
        layer = core.layer(case)
        assert layer.workspace(case.tensors()) >= 0
        assert layer.prepare(case.tensors()), core.error
        for tactic in [0, *layer.tactics(case.tensors())]:
            assert layer.set_tactic(tactic)
            assert layer.enqueue(case.tensors()), core.error
        assert not layer.set_tactic(-1)
        for name in case.names:
            assert not layer.enqueue(case.tensors(**{name: (1, 2, 3, 4, 5, 6, 7, 8)}))
            assert not layer.enqueue(case.tensors(**{name: "other"}))
    for size in HUGE:
        for element_size in (4, 1):
            problem = Problem(MAX_TOKENS, size, size, 64, 0, element_size)
            core.plan(problem)
            core.splits(problem, size)
            core.grids(problem, 0, size)
            core.tensor_maps(problem, 0, size)
            core.hopper_grids(problem, 0, size, 132)
        for case in cases:
            width = size // case.num_learners * case.num_learners
            assert core.layer(case).workspace(case.tensors(w1=(size, width))) < 0
            for name, shape in case.shapes().items():
                assert not core.layer(case).prepare(case.tensors(**{name: (size,) * len(shape)}))


def exercise_plugin(harness: Harness) -> None:
    for case in [*CASES, *QUANTIZED_CASES, *GLU_CASES]:
        largest = replace(case, leading=tuple(4 * size + 1 for size in case.leading))
        unknown = replace(case, leading=(-1,) * len(case.leading))
        made = harness.create(fields_of(case), case.operator)
        assert made, harness.take_log()
        for rank in (-1, 0, 1000):
            profile = [shapes.tensors() for shapes in (unknown, case, largest)]
            for tensor in (tensor for tensors in profile for tensor in tensors[-2:]):
                tensor.rank, tensor.dims[:] = rank, (1 << 62,) * 8
            assert made.configure(*profile) == 0
            assert made.workspace(*profile) > 0
        assert made.output_shapes(case.tensors())
        assert made.output_types(case.tensors())
        assert made.configure(unknown.tensors(), case.tensors(), largest.tensors()) == 0
        assert made.workspace(unknown.tensors(), case.tensors(), largest.tensors()) > 0
        copy = made.clone()
        del made
        loaded = copy.round_trip().attach()
        for shapes in (case, largest):
            assert loaded.change_shapes(shapes.tensors()) == 0, harness.take_log()
            assert loaded.enqueue(shapes.tensors()) == 0, harness.take_log()
        for name in case.names:
            assert loaded.enqueue(case.tensors(**{name: (3, 3, 3)})) != 0
            for size in HUGE:
                assert loaded.enqueue(case.tensors(**{name: (size,) * len(case.shapes()[name])})) != 0
            nowhere = pointers(case.inputs, **{name: 0})
            assert 0 in case.leading or loaded.enqueue(case.tensors(), nowhere) != 0
        copy.tactics()
        copy.timing_id()
    for change in ({"activation": None}, {"num_learners": 99}, {"activation": b"x" * 5000}, {"y": 1}):
        assert harness.create(fields_of(CASES[0], **change)) is None
        assert harness.create(fields_of(QUANTIZED_CASES[0], **change), QuantizedCase.operator) is None
    assert harness.create(fields_of(QUANTIZED_CASES[0], dynamic=1), QuantizedCase.operator) is None


def main(target: str, library: Path, driver: Path) -> None:
    Driver(driver).reset()
    if target == "acm_core_harness":
        exercise_core(Core(library, driver))
    else:
        exercise_plugin(Harness(library, driver))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
