"""The verb doctor: goals, exit codes, JSON, and light imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from doctor_surroundings import LIBRARY, TENSORRT_10, Surroundings

from acm_export.base.errors import MachineError, UsageError
from acm_export.base.optional import EXPORT
from acm_export.cli import main
from acm_export.cli.doctor import GOALS
from acm_export.diagnosis import examine as examination
from acm_export.diagnosis import system
from acm_export.diagnosis.examine import NEEDS, Examination, doctor, lacking
from acm_export.machine.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted({name for needs in NEEDS.values() for name in needs})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def pretend(monkeypatch: pytest.MonkeyPatch, *bad: str, state: Any = "missing") -> None:
    """Replace the findings: all ok, except some."""
    findings = tuple(
        Finding(name, state if name in bad else "ok", "[bold] is not markup", "do this" if name in bad else None)
        for name in (*NAMES, "clocks")
    )
    monkeypatch.setattr(examination, "doctor", lambda *, goal, **_: Examination(findings, goal))


@pytest.fixture(scope="module")
def real() -> Examination:
    """The findings on the machine of the tests."""
    return doctor()


def test_goals_need_checks_that_exist(real: Examination) -> None:
    names = [finding.name for finding in real.findings]
    assert len(names) == len(set(names))
    assert tuple(NEEDS) == GOALS
    for goal, needs in NEEDS.items():
        assert set(needs) <= set(names), goal


def test_the_requirements_of_the_tests_are_ok(real: Examination) -> None:
    states = {finding.name: (finding.state, finding.found) for finding in real.findings}
    for name in ("Python", "numpy", "onnx", "click", "rich", "torch", "transformers", "ONNX Runtime"):
        assert states[name][0] == "ok", states[name]


def test_needed_findings_that_are_not_ok_have_a_fix(real: Examination) -> None:
    without = {"kernels for the GPU", "Jetson"}  # no command changes a chip
    for finding in real.findings:
        if finding.state != "ok" and any(finding.name in needs for needs in NEEDS.values()):
            assert finding.fix or finding.name in without, finding


@pytest.mark.parametrize("goal", GOALS)
def test_a_goal_works_when_all_that_it_needs_is_ok(monkeypatch: pytest.MonkeyPatch, goal: str) -> None:
    pretend(monkeypatch, *(set(NAMES) - set(NEEDS[goal])), "clocks", state="wrong")
    result = run("--for", goal)
    assert result.exit_code == 0, result.stderr
    assert f"{goal}: can work" in result.stdout


@pytest.mark.parametrize("state", ["missing", "wrong"])
@pytest.mark.parametrize(("goal", "name"), [(goal, name) for goal in GOALS for name in NEEDS[goal]])
def test_a_goal_does_not_work_without_one_of_its_needs(
    monkeypatch: pytest.MonkeyPatch, goal: str, name: str, state: str
) -> None:
    pretend(monkeypatch, name, state=state)
    result = run("--for", goal)
    assert result.exit_code == 1
    assert result.stderr.endswith(f"error: {goal} cannot work here: {name} ({state})\nhint: first: do this\n")
    assert run().exit_code == 0  # no goal


def test_no_gpu_is_an_error_only_for_a_goal_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "CUDA driver", "GPU", "kernels for the GPU")
    assert [run(*arguments).exit_code for arguments in ((), ("--for", "export"), ("--for", "tensorrt"))] == [0, 0, 1]


def test_the_table_shows_every_check_verbatim(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "torch")
    shown = run().stdout
    assert all(name in shown for name in NAMES)
    assert "[bold] is not markup" in shown
    assert "do this" in shown
    assert "export: cannot work: torch (missing)" in shown


def test_json_has_checks_and_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "torch")
    result = run("--for", "export", "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert list(content) == ["for", "checks", "goals", "warnings", "error"]
    assert content["for"] == "export"
    assert {tuple(check) for check in content["checks"]} == {("name", "state", "found", "fix")}
    assert content["goals"]["export"] == {"works": False, "needs": list(NEEDS["export"]), "lacks": ["torch"]}
    assert content["goals"]["onnxruntime"]["works"] is True
    assert json.loads(run("--json").stdout)["for"] is None


def test_json_of_the_real_machine_is_json(real: Examination) -> None:
    assert json.loads(json.dumps(real.to_json()))["checks"]


def test_lacking_names_only_what_is_needed() -> None:
    findings = [Finding("torch", "wrong", ""), Finding("numpy", "ok", "")]
    assert lacking("export", findings) == findings[:1]
    assert lacking("onnxruntime", findings) == []


def test_a_complete_machine_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = Surroundings(tmp_path, monkeypatch)
    around.package("tensorrt", "10.3.0", TENSORRT_10.format(load="self.all_creators = creators(); return 1"))
    for name in EXPORT:  # quick to import
        around.package(name, "99.0", "class version: cuda = None\n")
    around.driver(major=8, minor=7, integrated=1)
    library = str(around.library("plugin.so", LIBRARY))
    assert run("--for", "tensorrt", "--plugin", library).exit_code == 0
    lacks_only_the_board = run("--for", "jetson", "--plugin", library)
    assert "error: jetson cannot work here: Jetson (missing)\n" in lacks_only_the_board.stderr
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3\n")
    monkeypatch.setattr(system, "L4T_RELEASE", tmp_path / "release")
    assert run("--for", "jetson", "--plugin", library).exit_code == 0
    around.driver(major=7, minor=2, integrated=1)  # Xavier
    refused = run("--for", "jetson", "--plugin", library)
    assert refused.exit_code == 1
    assert "kernels for the GPU (wrong)" in refused.stderr


def test_an_unknown_goal_is_wrong_usage() -> None:
    assert run("--for", "wishes").exit_code == 2


def test_the_python_function_checks_its_goal() -> None:
    with pytest.raises(UsageError, match="unknown goal 'wishes'") as caught:
        doctor(goal="wishes")
    assert caught.value.hint == "choose one of export, onnxruntime, tensorrt, jetson"
    lacking_torch = (Finding("torch", "missing", "", "pip install torch"),)
    Examination(lacking_torch).check_goal()
    with pytest.raises(MachineError, match=r"export cannot work here: torch \(missing\)"):
        Examination(lacking_torch, "export").check_goal()


def test_the_doctor_imports_nothing_heavy_itself(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_lean", "numpy")
    code = (
        "import sys, contextlib, io\n"
        "from acm_export.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['doctor', '--json'], standalone_mode=False)\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []  # nor does it leave anything behind


def test_an_interrupt_ends_the_doctor_and_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "numpy").mkdir()
    code = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    (tmp_path / "numpy" / "__init__.py").write_text(code)
    command = [sys.executable, "-m", "acm_export", "doctor"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)  # until the child hangs in its import
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"interrupted" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
