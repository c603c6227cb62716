"""Probes in other processes: results, and every way to get none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from doctor_surroundings import CRASHES, HANGS, Surroundings

from acm_export.machine import processes
from acm_export.machine.processes import ProbeError, probe, run_tool


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


def test_a_result_follows_what_a_package_prints(around: Surroundings) -> None:
    around.package("loud", "1.2", "import sys\nprint('hello')\nprint('careful', file=sys.stderr)\n")
    output = probe("package", "loud")
    assert output.value == {"version": "1.2"}
    assert output.stderr.strip() == "careful"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CRASHES, "crashed with SIGSEGV"),
        ("import os\nos.abort()\n", "crashed with SIGABRT"),
        ("raise OSError('libcublas.so.12: cannot open')", "OSError: libcublas.so.12: cannot open"),
        ("import missing_dependency", "No module named 'missing_dependency'"),
        ("import os\nos._exit(3)\n", "exited with code 3"),
        ("import os\nos._exit(0)\n", "no result: no output"),
    ],
    ids=["segfault", "abort", "error", "dependency", "exit", "silent"],
)
def test_the_reason_is_the_error_of_the_import(around: Surroundings, code: str, reason: str) -> None:
    around.package("broken", "1.0", code)
    with pytest.raises(ProbeError, match=reason):
        probe("package", "broken")


def test_a_process_that_hangs_is_killed_with_its_children(around: Surroundings) -> None:
    pid = around.folder / "pid"
    starts = f"import subprocess\np = subprocess.Popen(['sleep', '600'])\nopen({str(pid)!r}, 'w').write(str(p.pid))\n"
    around.package("slow", "1.0", starts + HANGS)
    with pytest.raises(ProbeError, match="no result within 3 s"):
        probe("package", "slow", timeout=3)
    killed, deadline = int(pid.read_text()), time.monotonic() + 30
    while _runs(killed) and time.monotonic() < deadline:
        time.sleep(0.02)  # the signal was sent but not yet handled
    assert not _runs(killed)


def test_the_working_folder_does_not_hide_packages(
    around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around.package("useful", "1.0")
    (tmp_path / "useful.py").write_text("__version__ = 'of the working folder'")
    monkeypatch.chdir(tmp_path)
    assert probe("package", "useful").value == {"version": "1.0"}


def test_tools_give_output_or_a_reason(around: Surroundings) -> None:
    around.tool("good", "echo fine")
    around.tool("bad", "echo no permission >&2; exit 1")
    around.tool("hanging", "sleep 600")
    output = run_tool("good")
    assert output is not None
    assert output.value == "fine\n"
    assert run_tool("not-there-at-all") is None
    with pytest.raises(ProbeError, match="no permission"):
        run_tool("bad")
    with pytest.raises(ProbeError, match="no result within"):
        run_tool("hanging", timeout=0.3)


def test_a_tool_that_cannot_start_is_an_error(around: Surroundings) -> None:
    around.tool("text", "")
    (around.bin / "text").write_bytes(b"\x00\x01\x02")
    with pytest.raises(ProbeError, match="cannot start"):
        run_tool("text")


def test_the_time_limit_leaves_room_for_a_slow_first_import() -> None:
    assert processes.TIMEOUT >= 30


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # killed, and not yet collected by its new parent
