"""Checks of clocks, power mode, Jetson and disks, with fake tools."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from doctor_surroundings import Surroundings

from acm_export.diagnosis import clocks, system
from acm_export.machine import nvidia_smi

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


def test_without_tools_clocks_and_power_are_unknown(around: Surroundings) -> None:
    around.no_tools()
    for finding in (clocks.clocks(), clocks.power_mode()):
        assert (finding.state, finding.found[:9]) == ("missing", "unknown: ")


def test_clocks_and_limits_from_nvidia_smi(around: Surroundings) -> None:
    around.tool(
        "nvidia-smi",
        """case "$1" in *power.limit*) echo "350.00 W, 700.00 W";;
        *) echo "1200 MHz, 1980 MHz, 0x0000000000000005";; esac""",
    )
    assert clocks.clocks().state == "ok"
    assert clocks.clocks().found.startswith("1200 MHz of at most 1980 MHz; unknown whether they are locked")
    assert clocks.power_mode().found == "limit 350.00 W of at most 700.00 W"
    around.tool("nvidia-smi", 'echo "900 MHz, 1980 MHz, 0x0000000000000048"')
    assert clocks.clocks().state == "wrong"
    assert "throttled by hw_thermal_slowdown" in clocks.clocks().found


def test_nvidia_smi_of_older_drivers_has_other_names(around: Surroundings) -> None:
    around.tool(
        "nvidia-smi",
        """case "$1" in *clocks_event_reasons*)
        echo 'Field "clocks_event_reasons.x" is not a valid field to query.'; exit 2;; esac
        echo "1200 MHz, 1980 MHz, 0x0000000000000020" """,
    )
    assert "throttled by sw_thermal_slowdown" in clocks.clocks().found
    around.tool("nvidia-smi", "echo 'Field \"clocks.sm\" is not a valid field to query.'; exit 2")
    assert clocks.clocks().state == "missing"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0x0000000000000000", ()),
        ("0x1", ("gpu_idle",)),
        ("[N/A]", ()),
        ("[Not Supported]", ()),
        ("", ()),
        ("0x0000000000000044", ("sw_power_cap", "hw_thermal_slowdown")),
        ("0x8000000000000000", ()),
    ],
)
def test_reasons_are_the_bits_of_a_mask(text: str, names: tuple[str, ...]) -> None:
    assert nvidia_smi.parse_reasons(text) == names


def test_processes_on_the_gpu_are_named(around: Surroundings) -> None:
    around.no_tools()
    assert nvidia_smi.processes_on_gpu() == []
    around.tool("nvidia-smi", "echo '4242, /usr/bin/python3, 1234 MiB'; echo '[N/A], gone, 1 MiB'; echo 'nothing'")
    assert [process.text for process in nvidia_smi.processes_on_gpu()] == ["/usr/bin/python3 (process 4242, 1234 MiB)"]


def test_nvidia_smi_that_fails_or_hangs_is_unknown(around: Surroundings) -> None:
    around.tool("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert "version mismatch" in clocks.clocks().found
    assert clocks.clocks().state == clocks.power_mode().state == "missing"


@pytest.mark.parametrize(
    ("shown", "state", "text"),
    [
        ("GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000", "wrong", "not locked: 306 to 1300 MHz"),
        ("GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000", "ok", "locked at 1300 MHz"),
        ("Error: run as root", "missing", "needs root"),
    ],
)
def test_jetson_clocks(around: Surroundings, shown: str, state: str, text: str) -> None:
    around.tool("jetson_clocks", f"echo 'SOC family:tegra234'; echo '{shown}'")
    assert clocks.clocks().state == state
    assert text in clocks.clocks().found


def test_jetson_clocks_without_root_is_unknown(around: Surroundings) -> None:
    around.tool("jetson_clocks", "echo 'Error: Run this script as a root user'; exit 1")
    finding = clocks.clocks()
    assert (finding.state, finding.fix) == ("missing", "sudo jetson_clocks --show")
    assert "root user" in finding.found


def test_the_power_mode_from_nvpmodel(around: Surroundings) -> None:
    around.tool("nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2")
    assert (clocks.power_mode().state, clocks.power_mode().found) == ("ok", "MAXN_SUPER")
    around.tool("nvpmodel", "echo")
    assert clocks.power_mode().state == "missing"


@pytest.mark.parametrize(
    ("line", "state", "text"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "ok", "Jetson Linux 36.4.3, JetPack 6"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "ok", "JetPack 7"),
        ("# R39 (release), REVISION: 2.10, GCID: 1", "ok", "Jetson Linux 39.2.10, JetPack 7"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "wrong", "JetPack 5; the verbs need JetPack 6"),
        ("something else", "wrong", "does not name a release"),
    ],
)
def test_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, state: str, text: str) -> None:
    monkeypatch.setattr(system, "L4T_RELEASE", tmp_path / "release")
    assert system.jetson().state == "missing"
    (tmp_path / "release").write_text(line + "\n")
    assert system.jetson().state == state
    assert text in system.jetson().found


def test_free_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.chdir(tmp_path)
    checks: tuple[Any, ...] = (system.working_folder, system.temporary_folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1 << 40))
    assert [check().state for check in checks] == ["ok", "ok"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1 << 20))
    assert [check().state for check in checks] == ["wrong", "wrong"]
    assert system.temporary_folder().fix == "export TMPDIR=FOLDER"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "not writable" in system.working_folder().found
