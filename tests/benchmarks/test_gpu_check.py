"""The GPU check, tested without a GPU: steps end in time with all their processes, and every result is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import gpu_check
import gpu_smoke
import step_runner
import warm_kernels
from gpu_check import parse
from gpu_smoke import Case, check
from step_runner import Interruption, Step

from acm_export.op.signature import ACTIVATIONS, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
H100, H200 = {"gpu": "NVIDIA H100"}, {"gpu": "NVIDIA H200"}


def shell(name: str, script: str, **more: Any) -> Step:
    return Step(name, ("bash", "-c", script), **more)


class Check:
    """Runs the program as a user does, with the test's stages and a GPU of a given name."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder / "device", monkeypatch
        self.result = self.folder / "gpu_check.json"

    def __call__(self, *steps: Step, stage: str = "figures", device: dict[str, str] = H100, seconds: float = 30) -> int:
        self._monkeypatch.setitem(gpu_check.STAGES, stage, lambda _: list(steps))
        self._monkeypatch.setattr(gpu_check, "device_facts", lambda: device)
        self._monkeypatch.setattr(Interruption, "watch", lambda _: None)
        command = ["gpu_check.py", "--stage", stage, "--device", "device", "--output", str(self.folder.parent)]
        self._monkeypatch.setattr(sys, "argv", [*command, "--seconds", str(seconds)])
        with pytest.raises(SystemExit) as end:
            gpu_check.main()
        return int(end.value.code or 0)

    def steps(self) -> dict[str, dict[str, Any]]:
        return {step["name"]: step for step in json.loads(self.result.read_text())["steps"]}


@pytest.fixture
def gpu_check_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    return Check(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_runner, "GRACE", 0.5)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def has_ended(pid_file: Path) -> bool:
    try:
        return psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "], ids=["usual", "ignores SIGTERM"])
def test_a_step_that_is_cut_off_takes_its_grandchildren_with_it(
    gpu_check_run: Check, tmp_path: Path, trap: str
) -> None:
    pid_file = tmp_path / "pid"
    script = f"{trap}sleep 60 & echo $! > {pid_file}; echo measured 1.5; wait"
    assert gpu_check_run(shell("slow", script, share=0.05)) == 1
    step = gpu_check_run.steps()["slow"]
    assert (step["state"], step["reason"]) == ("cut off", "still running after 2 s")
    assert step["output"] == ["measured 1.5"]
    assert "measured 1.5" in (gpu_check_run.folder / step["log"]).read_text()
    assert has_ended(pid_file)


def test_a_step_that_ends_leaves_no_process_behind(gpu_check_run: Check, tmp_path: Path) -> None:
    assert gpu_check_run(shell("quick", f"sleep 60 & echo $! > {tmp_path / 'pid'}")) == 0
    assert has_ended(tmp_path / "pid")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_check_stops_its_step_and_writes_the_result(tmp_path: Path, number: int) -> None:
    pid_file = tmp_path / "pid"
    program = f"""
import gpu_check
from step_runner import Step
slow = Step("slow", ("bash", "-c", "sleep 60 & echo $! > {pid_file}; wait"))
gpu_check.STAGES["figures"] = lambda _: [slow, Step("next", ("true",))]
gpu_check.device_facts = lambda: {H100!r}
gpu_check.main()
"""
    command = ["--stage", "figures", "--device", "device", "--output", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", program, *command], cwd=BENCHMARKS, stdout=subprocess.DEVNULL)
    assert eventually(lambda: pid_file.is_file() and bool(pid_file.read_text()))
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert has_ended(pid_file)
    (step,) = json.loads((tmp_path / "device" / "gpu_check.json").read_text())["steps"]
    assert (step["state"], step["reason"]) == ("cut off", f"interrupted by {signal.Signals(number).name}")


def test_the_result_is_on_disk_after_each_step(gpu_check_run: Check) -> None:
    program = f"import json; print([s['name'] for s in json.load(open('{gpu_check_run.result}'))['steps']])"
    second = Step("second", (sys.executable, "-c", program))
    assert gpu_check_run(shell("first", "true"), second) == 0
    assert gpu_check_run.steps()["second"]["output"] == ["['first']"]


def test_a_step_that_fails_does_not_stop_the_next(gpu_check_run: Check) -> None:
    steps = [
        shell("fails", "echo why; exit 3"),
        shell("crashes", "kill -SEGV $$"),
        Step("is not there", ("/no/such/program",)),
        shell("passes", "true"),
    ]
    assert gpu_check_run(*steps) == 1
    found = gpu_check_run.steps()
    assert [step["state"] for step in found.values()] == ["failed", "failed", "failed", "passed"]
    assert (found["fails"]["reason"], found["fails"]["output"]) == ("exit code 3", ["why"])
    assert found["crashes"]["reason"] == "ended by SIGSEGV"
    assert found["is not there"]["reason"] == "/no/such/program cannot be started: No such file or directory"


def test_only_the_last_lines_are_kept_and_the_log_has_all(gpu_check_run: Check) -> None:
    gpu_check_run(shell("long", "seq 1000"), shell("short", "echo end"))
    found = gpu_check_run.steps()
    assert found["long"]["output"] == [str(i) for i in range(961, 1001)]
    assert found["short"]["output"] == ["end"]
    assert "\n1\n2\n" in (gpu_check_run.folder / "gpu_check-figures.log").read_text()


def test_a_stage_that_is_out_of_time_starts_no_more_steps(gpu_check_run: Check, tmp_path: Path) -> None:
    steps = shell("slow", "sleep 60"), shell("late", f"touch {tmp_path / 'ran'}")
    assert gpu_check_run(*steps, seconds=4.5) == 1
    assert gpu_check_run.steps()["late"]["reason"] == "earlier steps used up the stage's 4 s"
    assert not (tmp_path / "ran").exists()


def test_a_program_learns_how_much_time_is_left(gpu_check_run: Check) -> None:
    gpu_check_run(Step("timed", ("echo", "--seconds", step_runner.TIME_LEFT), share=0.5), seconds=100)
    assert gpu_check_run.steps()["timed"]["output"] == ["--seconds 30"]


def test_steps_of_earlier_calls_are_kept_for_the_same_gpu(gpu_check_run: Check) -> None:
    gpu_check_run(shell("smoke", "exit 1"), stage="correctness")
    gpu_check_run(shell("memcheck", "true"), stage="sanitizer")
    gpu_check_run(shell("smoke", "true"), stage="correctness")
    assert {name: step["state"] for name, step in gpu_check_run.steps().items()} == {
        "smoke": "passed",
        "memcheck": "passed",
    }
    gpu_check_run(shell("figures", "true"), device=H200)
    assert list(gpu_check_run.steps()) == ["figures"]
    gpu_check_run.result.write_text("{")
    gpu_check_run(shell("figures", "true"))
    assert list(gpu_check_run.steps()) == ["figures"]


def test_a_step_does_not_use_a_file_of_an_earlier_call(gpu_check_run: Check, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles.json"
    use = shell("use", "true", needs=tiles)
    tiles.write_text("{}")
    time.sleep(0.05)
    assert gpu_check_run(shell("tune", "true"), use) == 0
    assert gpu_check_run.steps()["use"]["reason"] == "tiles.json was not written by the step before"
    assert gpu_check_run(shell("tune", f"touch {tiles}"), use) == 0
    assert gpu_check_run.steps()["use"]["state"] == "passed"


def test_a_missing_sanitizer_is_recorded_with_its_reason(
    gpu_check_run: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "SEARCH_PATH", str(tmp_path))
    assert gpu_check_run(*gpu_check.sanitizer(parse([])), stage="sanitizer") == 0
    for tool in ("memcheck", "racecheck", "initcheck"):
        step = gpu_check_run.steps()[f"compute-sanitizer {tool}"]
        reason = "compute-sanitizer is neither on the PATH nor in /usr/local/cuda/bin"
        assert (step["state"], step["reason"]) == ("not run", reason)


def test_an_unknown_stage_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--stage", "speed"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "'speed'" in message
    assert all(stage in message for stage in ("correctness", "figures", "tune", "model", "sanitizer", "engines"))


@pytest.mark.parametrize("seconds", ["soon", "-5", "1", "nan", "inf"])
def test_an_invalid_time_limit_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--seconds={seconds}"])
    assert f"'{seconds}' is not a valid time limit" in capsys.readouterr().err


def test_stages_run_in_their_order() -> None:
    assert parse([]).stage == ["correctness", "figures", "tune", "model", "sanitizer", "engines"]
    assert parse(["--stage", "tune", "--stage", "correctness"]).stage == ["correctness", "tune"]


def test_step_names_are_unique_and_programs_exist() -> None:
    steps = [step for stage in gpu_check.STAGES.values() for step in stage(parse([]))]
    assert len({step.name for step in steps}) == len(steps)
    programs = [part for step in steps for part in step.command if part.endswith(".py")]
    assert all(Path(program).is_file() for program in programs)


def test_only_files_with_tests_for_a_gpu_are_collected() -> None:
    files = {Path(part).name for part in gpu_check.gpu_tests() if part.endswith(".py")}
    assert {"test_gpu_kernels.py", "test_gpu_plugin.py"} <= files
    assert Path(__file__).name not in files


def test_without_a_gpu_the_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"error: PyTorch of .* sees no GPU here: "):
        gpu_check.device_facts()


SMALL = Case(9, 24, 8, Signature(3, 1, "silu"), repeated=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_smoke_case_passes_if_the_op_is_correct(dtype: torch.dtype) -> None:
    result = check(SMALL, dtype, "cpu")
    assert (result.passed, result.runs_that_differ) == (True, 0)


def test_a_smoke_case_fails_if_y_counts_or_repeated_runs_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = SMALL.inputs(torch.float32, "cpu")
    y, counts = gpu_smoke.run(inputs)

    def result_of(*calls: tuple[torch.Tensor, torch.Tensor]) -> gpu_smoke.CaseResult:
        outputs = iter([*calls, *[calls[-1]] * gpu_smoke.REPEATS])
        monkeypatch.setattr(gpu_smoke, "run", lambda _: next(outputs))
        return check(SMALL, torch.float32, "cpu")

    assert result_of((y, counts)).passed
    assert not result_of((y * 1.001, counts)).passed
    assert not result_of((y * torch.nan, counts)).passed
    assert not result_of((y, counts + 1)).passed
    assert result_of((y, counts), (y + 1e-7, counts), (y, counts)).runs_that_differ == 1


def test_an_exception_in_a_smoke_case_is_recorded() -> None:
    result = check(replace(SMALL, signature=Signature(3, 1, "gelu")), torch.float32, "no-such-device")
    assert not result.passed
    assert "no-such-device" in result.reason


def test_the_smoke_cases_cover_what_the_kernels_distinguish() -> None:
    assert {1, 17, 197, 512, 513, 4097} <= {case.tokens for case in gpu_smoke.CASES if case.model_dim == 768}
    assert {case.signature.activation for case in gpu_smoke.CASES} == set(ACTIVATIONS)
    assert {1, 64} <= {case.signature.num_learners for case in gpu_smoke.CASES}
    for glu, repeated in ((False, 3), (True, 2)):
        assert sum(case.repeated for case in gpu_smoke.CASES if case.signature.glu == glu) == repeated


@pytest.mark.parametrize("program", warm_kernels.PROGRAMS)
def test_kernels_of_every_program_can_be_compiled_beforehand(program: str) -> None:
    launches = warm_kernels.PROGRAMS[program]()
    assert len(launches) == len(set(launches)) > 2
