"""Observing the GPU, with fakes of NVIDIA's tools, and warnings about device times."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from doctor_surroundings import Surroundings

from acm_export.machine import gpu as driver
from acm_export.machine.gpu import Cuda, Gpu
from acm_export.timing.environment import Device, gpu
from acm_export.timing.gpu_watch import GpuWatch, watch_gpu
from acm_export.timing.reliability import device_warnings
from acm_export.timing.result import RunResult
from acm_export.timing.statistics import Statistics

if TYPE_CHECKING:
    from pathlib import Path

SMI = """case "$1" in
*query-compute-apps*) echo "{own}, python, 10 MiB"; echo "7, /opt/other, 99 MiB";;
*power.limit*) echo "{power}";;
*reasons.active) echo "{reasons}";;
*name*) echo "A GPU, 9.0, 1200, 1980, P0, 570.1";;
esac"""


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


def smi(around: Surroundings, power: str = "700.00, 700.00", reasons: str = "0x1") -> None:
    around.tool("nvidia-smi", SMI.format(own=os.getpid(), power=power, reasons=reasons))


def test_other_processes_and_limits_are_named(around: Surroundings) -> None:
    smi(around, power="350.00, 700.00")
    watch = watch_gpu()
    assert watch.processes == ("/opt/other (process 7, 99 MiB)",)
    first, second = watch.warnings()
    assert first == "the GPU is not idle: it is also used by /opt/other (process 7, 99 MiB)"
    assert second.startswith("power is limited to 350 W of 700 W")


@pytest.mark.parametrize(("visible", "queried"), [(None, "0"), ("2,0", "2"), ("GPU-5c", "GPU-5c"), ("", "0")])
def test_only_the_gpu_that_is_used_is_queried(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch, visible: str | None, queried: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    around.tool("nvidia-smi", 'case "$*" in *compute-apps*) echo "7, $3, 1 MiB";; esac')
    watch = watch_gpu()
    assert watch.processes == (f"--id={queried} (process 7, 1 MiB)",)
    around.tool("nvidia-smi", f'case "$*" in *name*--id={queried}) echo "A, 9.0, 1, 2, P0, 5";; *) exit 1;; esac')
    assert gpu().name == "A"


def test_a_jetson_reports_its_power_mode_and_clocks(around: Surroundings) -> None:
    around.tool("nvpmodel", "echo 'NV Power Mode: 15W'")
    around.tool("jetson_clocks", "echo 'GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000'")
    mode, clocks = watch_gpu().warnings()
    assert "the power mode is 15W" in mode
    assert "306 to 1300 MHz" in clocks
    around.tool("nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'")
    around.tool("jetson_clocks", "echo 'GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000'")
    assert list(watch_gpu().warnings()) == []
    assert gpu().power_mode == "MAXN_SUPER"
    assert gpu().clocks == "GPU fixed at 1300 MHz"


def test_throttling_is_queried_under_load(around: Surroundings) -> None:
    smi(around, reasons="0x0000000000000005")
    watch, loads = GpuWatch((), ()), list[None]()
    watch.check_throttling("data at 0.5", lambda: loads.append(None))
    assert loads
    smi(around, reasons="0x0000000000000044")
    watch.check_throttling("most", lambda: None)
    assert list(watch.warnings()) == [
        "the GPU was throttled by sw_power_cap after 2 runs, first after data at 0.5",
        "the GPU was throttled by hw_thermal_slowdown after 1 run, first after most",
    ]


@pytest.mark.parametrize("script", [None, "exit 9", "echo nonsense"])
def test_tools_without_an_answer_are_not_an_error(around: Surroundings, script: str | None) -> None:
    if script is None:
        around.no_tools()
    else:
        around.tool("nvidia-smi", script)
    watch = watch_gpu()
    watch.check_throttling("data", lambda: None)
    assert (watch.processes, list(watch.warnings())) == ((), [])


def test_without_nvidia_smi_nothing_is_run_for_it(around: Surroundings) -> None:
    around.no_tools()

    def never() -> None:
        raise AssertionError("load without need")

    GpuWatch((), ()).check_throttling("data", never)


def test_an_error_of_the_load_is_not_lost(around: Surroundings) -> None:
    smi(around)

    def broken() -> None:
        raise RuntimeError("the GPU is gone")

    with pytest.raises(RuntimeError, match="is gone"):
        GpuWatch((), ()).check_throttling("data", broken)


def test_the_driver_names_the_gpu_if_nvidia_smi_does_not(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(around)
    assert gpu() == Device("A GPU", "sm_90", "SM 1200 MHz of 1980 MHz", "P0", "570.1")
    around.tool("nvidia-smi", "exit 9")
    monkeypatch.setattr(driver, "query_cuda", lambda: Cuda((12, 6), (Gpu("Orin", (8, 7), integrated=True),)))
    assert gpu() == Device("Orin", "sm_87")
    monkeypatch.setattr(driver, "query_cuda", lambda: Cuda(None))
    assert gpu() == Device(None, None)


def ms(value: float) -> Statistics:
    return Statistics(value, 0.0, value, value, value, value, value, 100)


def timed(host: float, on_device: float, enqueue: float, transfer: float = 0.0, **changes: Any) -> RunResult:
    run = RunResult({"x": [1, 4]}, "data", 0.5, 0.5, ms(host), ms(on_device), ms(enqueue), ms(transfer))
    return replace(run, **changes)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (timed(4.0, 3.0, 1.0), None),
        (timed(4.0, 3.0, 2.5), "host-bound: in 1 of 2 the host takes about as long"),
        (
            timed(2.0, 3.0, 1.0),
            "enqueue ahead: in 1 of 2 the call returned before the device was done, after 2 of 3 ms",
        ),
        (timed(10.0, 3.0, 1.0, 1.0), "most of the host time passes outside the device: 10 ms, of which 4 ms on"),
        (timed(10.0, 3.0, 1.0, 3.0), None),
        (timed(10.0, 3.0, 1.0, streams=4), None),  # runs wait for each other on the device
        (timed(10.0, 3.0, 1.0, device_ms=None), None),
    ],
)
def test_warnings_about_how_host_and_device_share_the_work(run: RunResult, expected: str | None) -> None:
    found = list(device_warnings([timed(4.0, 3.0, 1.0), run]))
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_cuda_graphs_are_not_advised_if_they_are_used() -> None:
    assert "--cuda-graph" in next(device_warnings([timed(4.0, 3.0, 2.5)]))
    assert "a larger batch" in next(device_warnings([timed(4.0, 3.0, 2.5)], cuda_graph=True))
