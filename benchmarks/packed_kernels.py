"""The op in the core of the plugin compared with the op in PyTorch; one part of kernels.py.

The core runs the kernel pack, through the library that the tests use (tests/support/plugin_core.py). PyTorch also runs
the pack on GPUs that have kernels in CUDA; on others Triton compiles the kernels.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from device_timing import Rotation
from kernel_bench import TOLERANCE
from kernel_report import Row, UnavailableError, reason_of
from skipping_rivals import relative_error

from acm_export.base.errors import KernelError
from acm_export.op.signature import INPUTS
from acm_export.plugins.kernels.pack import default_folder, read_pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_bench import Bench
    from kernel_cases import Case

_TESTS = Path(__file__).parent.parent / "tests" / "support"


class PackedKernels:
    """The core of the plugin with a kernel pack.

    Args:
        folder: Folder to build in.
        pack: Folder of the pack.
        driver: CUDA driver library that the core opens.

    Raises:
        UnavailableError: No compiler was found, or the core cannot be built.
    """

    def __init__(self, folder: Path, pack: Path, driver: Path | str = "libcuda.so.1") -> None:
        if str(_TESTS) not in sys.path:
            sys.path.append(str(_TESTS))
        try:
            plugin_build, self._plugin_core = import_module("plugin_build"), import_module("plugin_core")
        except ImportError as error:
            raise UnavailableError(reason_of(error)) from error
        missing = [tool for tool in plugin_build.TOOLS if shutil.which(tool) is None]
        if missing:
            raise UnavailableError(f"not installed: {', '.join(missing)}")
        import pytest

        try:
            library = plugin_build.build("acm_core_harness", folder, pack)
        except (pytest.fail.Exception, pytest.skip.Exception) as error:
            raise UnavailableError(f"the core of the plugin cannot be built: {reason_of(error)}") from error
        self._core = self._plugin_core.Core(library, driver)

    def calls(self, given: Case) -> tuple[list[Callable[[], None]], list[torch.Tensor]]:
        """One call for each input set of a case, and the outputs y that they write."""
        spec = given.layer.spec
        shapes = import_module("plugin_cases").Case(
            leading=(len(given.tokens[0]),),
            model_dim=spec.model_dim,
            hidden_dim=spec.hidden_dim,
            num_learners=spec.num_learners,
            dtype="bfloat16",
        )
        layer, tensors = self._core.layer(shapes), shapes.tensors()
        if not layer.prepare(tensors):
            raise RuntimeError(self._core.error)
        x = given.tokens[0]
        workspace = torch.empty(layer.workspace(tensors), dtype=torch.uint8, device=x.device)
        outputs = [(torch.full_like(x, torch.nan), x.new_empty(len(x), dtype=torch.int32)) for x in given.tokens]

        def call(inputs: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor, counts: torch.Tensor) -> None:
            weights = given.layer
            named = dict(
                zip(INPUTS, (*inputs, weights.thresholds, weights.w1, weights.b1, weights.w2, weights.b2), strict=True)
            ) | {"y": y, "counts": counts, "workspace": workspace}
            stream = torch.cuda.current_stream().cuda_stream if x.is_cuda else 0
            addresses = self._plugin_core.pointers(**{k: t.data_ptr() for k, t in named.items()}, stream=stream)
            if not layer.enqueue(tensors, addresses):
                raise RuntimeError(self._core.error)

        sets = zip(given.tokens, given.logits, outputs, strict=True)
        return [partial(call, (x, z), *made) for x, z, made in sets], [y for y, _ in outputs]


def packed(bench: Bench) -> None:
    """The op in the core of the plugin ÷ in PyTorch."""
    try:
        read_pack()
    except KernelError as error:
        raise UnavailableError(f"{error}; {error.hint}") from error
    setting = bench.setting
    with TemporaryDirectory() as folder:
        kernels = PackedKernels(Path(folder), default_folder())
        for tokens, share in ((setting.batch, 1.0), (setting.batch, 0.5), (setting.image, 0.5), (setting.image, 1.0)):
            bench.report.add(_beside_compiled(bench, kernels, bench.case(tokens, share), f"{tokens} tokens, {share}"))


def _beside_compiled(bench: Bench, kernels: PackedKernels, given: Case, what: str) -> Row:
    calls, outputs = kernels.calls(given)
    calls[0]()
    error = relative_error(outputs[0], given.run(given.tokens[0], given.logits[0])[0])
    what, facts = f"op in the plugin's core, {what}", dict[str, Any](error=error)
    if not error < TOLERANCE:
        return Row("pack", what, facts={"failed": f"relative error {error:.3g}", **facts})
    timing = bench.compare({what: Rotation(calls)}, given.op())[what]
    return Row("pack", what, timing.us, timing.ratio, "PyTorch", facts=facts | asdict(timing))
