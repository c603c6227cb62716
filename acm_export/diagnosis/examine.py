"""``doctor``: all checks of this machine, and what each goal needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import MachineError, UsageError
from acm_export.base.progress import Silent
from acm_export.diagnosis import clocks, gpu, packages, system, tensorrt
from acm_export.diagnosis import plugin as plugin_checks
from acm_export.diagnosis.prebuilt import check_prebuilt
from acm_export.machine.gpu import query_cuda
from acm_export.machine.tensorrt import query_tensorrt

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from acm_export.base.json_fields import JsonObject
    from acm_export.base.progress import Progress
    from acm_export.machine.finding import Finding

_BASE = ("Python", "numpy", "onnx", "click", "rich", "disk, working folder", "disk, temporary files")
_TENSORRT = (
    *_BASE,
    "TensorRT",
    "TensorRT builder",
    "plugin interface",
    "CUDA driver",
    "GPU",
    "kernels for the GPU",
    "plugin library",
    "plugin registry",
)

NEEDS: dict[str, tuple[str, ...]] = {
    "export": (*_BASE, "torch", "transformers", "safetensors", "onnxscript", "ONNX Runtime"),
    "onnxruntime": (*_BASE, "ONNX Runtime"),
    "tensorrt": _TENSORRT,
    "jetson": (*_TENSORRT, "Jetson"),
}
"""Names of the checks that must be ok for each goal. Export needs ONNX Runtime to verify the file that it writes."""


def lacking(goal: str, findings: Iterable[Finding]) -> list[Finding]:
    """The findings that keep a goal from working.

    Args:
        goal: A key of :data:`NEEDS`.
        findings: Findings of all checks.
    """
    return [finding for finding in findings if finding.name in NEEDS[goal] and finding.state != "ok"]


@dataclass(frozen=True)
class Examination:
    """Result of :func:`doctor`.

    Args:
        findings: One finding for each check.
        goal: The goal to check, if any.
    """

    findings: tuple[Finding, ...]
    goal: str | None = None

    @property
    def lacks(self) -> dict[str, list[Finding]]:
        """The findings that keep each goal from working."""
        return {goal: lacking(goal, self.findings) for goal in NEEDS}

    def check_goal(self) -> None:
        """Raise an error if the goal cannot work here.

        Raises:
            MachineError: The error names the findings and the first fix.
        """
        if self.goal and (lacks := self.lacks[self.goal]):
            names = ", ".join(f"{finding.name} ({finding.state})" for finding in lacks)
            fix = next((finding.fix for finding in lacks if finding.fix), None)
            raise MachineError(f"{self.goal} cannot work here: {names}", fix and f"first: {fix}")

    def to_json(self) -> JsonObject:
        """The result for ``--json``."""
        goals: JsonObject = {
            goal: {"works": not found, "needs": list(NEEDS[goal]), "lacks": [finding.name for finding in found]}
            for goal, found in self.lacks.items()
        }
        return {"for": self.goal, "checks": [finding.to_json() for finding in self.findings], "goals": goals}


def doctor(
    *, goal: str | None = None, plugin: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Examination:
    """Check packages, runtimes, GPUs, the plugin library and disks. Nothing on the machine is changed.

    Args:
        goal: Intended use of the machine, a key of :data:`NEEDS`; :meth:`Examination.check_goal` then raises an error
            if that cannot work.
        plugin: Plugin library; by default libacm_gated_learners.so in the working folder, else the prebuilt one.
        progress: Receives the name of each group of checks.

    Raises:
        UsageError: The goal is unknown.
    """
    if goal is not None and goal not in NEEDS:
        raise UsageError(f"unknown goal {goal!r}", f"choose one of {', '.join(NEEDS)}")
    library, progress = None if plugin is None else Path(plugin), progress or Silent()
    progress.stage("checking Python and packages", None)
    findings = [check() for check in packages.all_packages()]
    progress.stage("checking TensorRT", None)
    runtime = query_tensorrt()
    findings += [tensorrt.package(runtime), tensorrt.builder(runtime), tensorrt.interface(runtime)]
    progress.stage("checking the GPU", None)
    cuda = query_cuda()
    pack_finding, pack = plugin_checks.pack()
    findings += [gpu.driver(cuda), gpu.gpus(cuda), gpu.kernels_for_gpus(cuda, pack), pack_finding]
    progress.stage("checking the plugin", None)
    prebuilt = check_prebuilt(runtime)
    compiling = (plugin_checks.compiler(), plugin_checks.headers(), plugin_checks.cuda_headers_found())
    findings += [prebuilt.finding, *map(prebuilt.without_compiling, compiling)]
    with prebuilt.check_library(library) as (path, loaded):
        findings += [loaded, plugin_checks.registry(path, runtime, loaded)]
    progress.stage("checking the machine", None)
    findings += [system.jetson(), clocks.clocks(), clocks.power_mode()]
    findings += [system.working_folder(), system.temporary_folder()]
    return Examination(tuple(findings), goal)
