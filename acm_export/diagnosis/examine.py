"""All checks, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.diagnosis import clocks, gpu, packages, plugin, system, tensorrt
from acm_export.diagnosis.goals import NEEDS, lacking
from acm_export.machine.gpu import query_cuda
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.machine.tensorrt import query_tensorrt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.machine.finding import Finding


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Args:
        findings: One for each check.
        goal: That was asked for, if any.
    """

    findings: tuple[Finding, ...]
    goal: str | None = None

    @property
    def lacks(self) -> dict[str, list[Finding]]:
        """What stands in the way of each goal."""
        return {goal: lacking(goal, self.findings) for goal in NEEDS}

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        goals = {
            goal: {"works": not found, "needs": list(NEEDS[goal]), "lacks": [finding.name for finding in found]}
            for goal, found in self.lacks.items()
        }
        return {"for": self.goal, "checks": [finding.to_json() for finding in self.findings], "goals": goals}


def examine(
    library: Path | None = None, *, goal: str | None = None, log: Callable[[str], None] = lambda _: None
) -> Examination:
    """Look at everything; nothing on the machine is changed.

    Args:
        library: The plugin library; by default where build-plugin writes it.
        goal: What it is asked for (:data:`acm_export.diagnosis.goals.NEEDS`).
        log: Receives the name of each group of checks.
    """
    findings = []
    log("Python and packages")
    findings += [check() for check in packages.all_packages()]
    log("TensorRT")
    runtime = query_tensorrt()
    findings += [tensorrt.package(runtime), tensorrt.builder(runtime), tensorrt.interface(runtime)]
    log("GPU")
    cuda = query_cuda()
    pack_finding, pack = plugin.pack()
    findings += [gpu.driver(cuda), gpu.gpus(cuda), gpu.kernels_for_gpus(cuda, pack), pack_finding]
    log("plugin")
    findings += [plugin.compiler(), plugin.headers(), plugin.cuda_headers_found()]
    loaded = check_plugin_library(library)
    findings += [loaded, plugin.registry(library, runtime, loaded.state)]
    log("machine")
    findings += [system.jetson(), clocks.clocks(), clocks.power_mode()]
    findings += [system.working_folder(), system.temporary_folder()]
    return Examination(tuple(findings), goal)
