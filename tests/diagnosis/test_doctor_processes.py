"""What the doctor asks other processes: answers, and every way in which none comes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from doctor_surroundings import CRASHES, HANGS, Surroundings

from acm_export.machine import processes
from acm_export.machine.processes import ProbeError, ask, run_tool


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


def test_an_answer_is_found_behind_what_a_package_prints(around: Surroundings) -> None:
    around.package("loud", "1.2", "import sys\nprint('hello')\nprint('careful', file=sys.stderr)\n")
    answer = ask("package", "loud")
    assert answer.value == {"version": "1.2"}
    assert answer.stderr.strip() == "careful"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CRASHES, "crashed with SIGSEGV"),
        ("import os\nos.abort()\n", "crashed with SIGABRT"),
        ("raise OSError('libcublas.so.12: cannot open')", "OSError: libcublas.so.12: cannot open"),
        ("import missing_dependency", "No module named 'missing_dependency'"),
        ("import os\nos._exit(3)\n", "exit code 3"),
        ("import os\nos._exit(0)\n", "no answer: nothing was written"),
    ],
    ids=["segfault", "abort", "error", "dependency", "exit", "silent"],
)
def test_what_breaks_an_import_is_the_reason(around: Surroundings, code: str, reason: str) -> None:
    around.package("broken", "1.0", code)
    with pytest.raises(ProbeError, match=reason):
        ask("package", "broken")


def test_what_hangs_is_ended_with_all_that_it_started(around: Surroundings) -> None:
    pid = around.folder / "pid"
    starts = f"import subprocess\np = subprocess.Popen(['sleep', '600'])\nopen({str(pid)!r}, 'w').write(str(p.pid))\n"
    around.package("slow", "1.0", starts + HANGS)
    with pytest.raises(ProbeError, match="no answer within 3 s"):
        ask("package", "slow", timeout=3)
    killed, deadline = int(pid.read_text()), time.monotonic() + 30
    while _runs(killed) and time.monotonic() < deadline:
        time.sleep(0.02)  # the signal is on its way
    assert not _runs(killed)


def test_the_working_folder_hides_no_package(
    around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around.package("useful", "1.0")
    (tmp_path / "useful.py").write_text("__version__ = 'of the working folder'")
    monkeypatch.chdir(tmp_path)
    assert ask("package", "useful").value == {"version": "1.0"}


def test_tools_answer_or_say_why_not(around: Surroundings) -> None:
    around.tool("good", "echo fine")
    around.tool("bad", "echo no permission >&2; exit 1")
    around.tool("hanging", "sleep 600")
    answer = run_tool("good")
    assert answer is not None
    assert answer.value == "fine\n"
    assert run_tool("not-there-at-all") is None
    with pytest.raises(ProbeError, match="no permission"):
        run_tool("bad")
    with pytest.raises(ProbeError, match="no answer within"):
        run_tool("hanging", timeout=0.3)


def test_a_tool_that_is_no_program_is_a_reason(around: Surroundings) -> None:
    around.tool("text", "")
    (around.bin / "text").write_bytes(b"\x00\x01\x02")
    with pytest.raises(ProbeError, match="cannot be started"):
        run_tool("text")


def test_the_time_limit_leaves_room_for_a_slow_first_import() -> None:
    assert processes.TIMEOUT >= 30


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # killed, and not yet collected by its new parent
