"""The verbs as a user calls them: exit codes, messages, JSON, and files on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from acm_export.base.optional import install_command
from acm_export.cli import main
from acm_export.demo.digits import ACM, DENSE, load_test_images

ROOT = Path(__file__).parents[2]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def exported(digits_file: Path) -> Path:
    return digits_file


def test_every_verb_has_help_with_an_example() -> None:
    verbs = list(main.commands)
    assert {"convert", "demo", "export", "inspect", "set-budget", "verify"} <= set(verbs)
    for verb in verbs:
        result = run(verb, "--help")
        assert result.exit_code == 0
        assert f"acm-export {verb}" in result.stdout
        assert "--json" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "onnx", "onnxscript", "rich")
    code = f"import sys, acm_export.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_device_verbs_need_neither_torch_nor_onnxscript(exported: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnxscript', 'onnx_ir', 'safetensors', 'matplotlib', 'triton'):\n"
        "    sys.modules[name] = None\n"
        "from acm_export.cli import main\n"
        "main(sys.argv[1:])"
    )
    for args in (
        ["inspect", exported],
        ["set-budget", exported, "--threshold", "1", "-o", tmp_path / "m.onnx"],
        ["build-engine", exported, "-o", tmp_path / "m.plan", "--dry-run"],
        ["build-plugin", "--help"],
        ["latency", exported, "--runs", "2"],
    ):
        subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, capture_output=True)
    missing = subprocess.run(
        [sys.executable, "-c", code, "export", str(ACM), "-o", str(tmp_path / "n.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 1
    assert install_command("export") in missing.stderr


def test_export_says_what_it_wrote_and_verified(tmp_path: Path) -> None:
    result = run("export", ACM, "-o", tmp_path / "m.onnx", "--dtype", "fp16", "--target", "tensorrt", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["verification"]["passed"] is True
    assert len(content["verification"]["settings"]) == 3
    assert content["manifest"]["dtype"] == "fp16"
    assert content["bytes"] == (tmp_path / "m.onnx").stat().st_size


def test_dense_checkpoints_export_too(tmp_path: Path) -> None:
    assert run("export", DENSE, "-o", tmp_path / "m.onnx").exit_code == 0
    assert run("verify", tmp_path / "m.onnx", "--checkpoint", DENSE).exit_code == 0


def test_an_exceeded_tolerance_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("old")
    result = run("export", ACM, "-o", path, "--atol", "1e-12")
    assert result.exit_code == 1
    assert "tolerance 1e-12" in result.stderr
    assert "--no-verify" in result.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("m.onnx", "old")]


def test_inspect_shows_layers_and_target(exported: Path) -> None:
    result = run("inspect", exported)
    assert result.exit_code == 0
    for word in ("vit.layers.2.mlp", "portable", "digits-acm", "not calibrated"):
        assert word in result.stdout
    content = json.loads(run("inspect", exported, "--json").stdout)
    assert len(content["thresholds"]) == 15
    assert content["inputs"] == {"pixel_values": ["batch", 3, 32, 32]}


def test_verify_accepts_the_right_checkpoint_and_real_images(exported: Path, tmp_path: Path) -> None:
    images, _ = load_test_images()
    np.savez(tmp_path / "images.npz", pixel_values=images[:5])
    result = run("verify", exported, "--checkpoint", ACM, "--data", tmp_path / "images.npz", "--json")
    assert result.exit_code == 0, result.stderr
    budgets = [s["budget"] for s in json.loads(result.stdout)["settings"]]
    assert max(budgets) - min(budgets) > 0.2


def test_verify_refuses_a_changed_weight(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.name == "vit.layers.1.mlp.w2")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:24] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "changed.onnx")
    result = run("verify", tmp_path / "changed.onnx", "--checkpoint", ACM)
    assert result.exit_code == 1
    assert "tolerance" in result.stderr


def test_verify_refuses_another_checkpoint(exported: Path) -> None:
    result = run("verify", exported, "--checkpoint", DENSE)
    assert result.exit_code == 1
    assert "digits-acm" in result.stderr
    assert "hint:" in result.stderr


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 3, 32, 32))}, "the model takes pixel_values"),
        (
            {"pixel_values": np.zeros((2, 3, 16, 16))},
            "pixel_values is float64 [3, 16, 16]; the model takes float32 [3, 32, 32]",
        ),
        ({"pixel_values": np.zeros((0, 3, 32, 32))}, "no samples"),
        ({"pixel_values": np.full((2, 3, 32, 32), "a")}, "pixel_values is <U1 [3, 32, 32]; the model takes"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    exported: Path, tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], message: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    result = run("verify", exported, "--checkpoint", ACM, "--data", tmp_path / "data.npz")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "data.npz" in result.stderr


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, os.urandom(4000), b"not onnx"], ids=["empty", "zero", "random", "text"]
)
@pytest.mark.parametrize("verb", ["inspect", "verify", "set-budget"])
def test_files_that_are_not_onnx_are_refused(verb: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    extra = {"verify": ["--checkpoint", ACM], "set-budget": ["--trained"]}.get(verb, [])
    result = run(verb, path, *extra)
    assert result.exit_code == 1
    assert result.stderr.startswith(("error:", "warning:"))
    assert "hint:" in result.stderr
    assert path.read_bytes() == content


def test_an_onnx_file_of_another_tool_has_no_manifest(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:])), tmp_path / "m.onnx")
    for args in (["inspect"], ["verify", "--checkpoint", ACM], ["set-budget", "--trained"]):
        result = run(args[0], tmp_path / "m.onnx", *args[1:])
        assert result.exit_code == 1
        assert "no acm-export manifest" in result.stderr


def test_external_data_must_exist_inside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.onnx_file.staged_file.EXTERNAL_ABOVE", 0)
    path = tmp_path / "inside" / "m.onnx"
    path.parent.mkdir()
    assert run("export", ACM, "-o", path, "--no-verify").exit_code == 0
    (data,) = path.parent.glob("*.data")
    assert run("verify", path, "--checkpoint", ACM).exit_code == 0
    content = data.read_bytes()
    data.write_bytes(content[:100])
    assert "has 100 bytes" in run("inspect", path).stderr
    data.unlink()
    assert "is missing" in run("inspect", path).stderr
    (tmp_path / "outside.data").write_bytes(content)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.data"
    path.write_bytes(model.SerializeToString())
    for args in (["inspect", path], ["set-budget", path, "--trained"], ["verify", path, "--checkpoint", ACM]):
        result = run(*args)
        assert result.exit_code == 1
        assert "outside the model's folder" in result.stderr


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("old")
    command = [sys.executable, "-m", "acm_export", "export", str(ACM), "-o", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) == 1 and time.monotonic() < deadline:
            time.sleep(0.02)  # until the staging folder shows that the work has begun
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in errors
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("m.onnx", "old")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_generated_code_is_reported_like_any_other(number: int) -> None:
    # a KeyboardInterrupt that leaves exec() of a string makes CPython kill itself at exit, caught or not
    program = (
        "import click, os\n"
        "from acm_export.cli.common import verb\n"
        "from acm_export.base.interrupts import install\n"
        "install()\n"
        "@click.command()\n"
        "@verb\n"
        "def work(as_json):\n"
        f"    exec('os.kill(os.getpid(), {int(number)})\\nwhile True: pass')\n"
        "work()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: interrupted")


def test_wrong_usage_has_exit_code_2(exported: Path, tmp_path: Path) -> None:
    assert run("export", ACM).exit_code == 2
    assert run("export", ACM, "-o", tmp_path / "m.onnx", "--dtype", "int8").exit_code == 2
    assert run("export", ACM, "-o", tmp_path / "m.onnx", "--opset", "17").exit_code == 2
    assert run("set-budget", exported).exit_code == 2
    assert run("convert", "x.pth", "-o", tmp_path / "c", "--min-learners", "q_proj").exit_code == 2


def test_outputs_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    result = run("export", ACM, "-o", tmp_path / "missing" / "m.onnx")
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
    (tmp_path / "file").write_text("")
    assert run("export", ACM, "-o", tmp_path / "file" / "m.onnx").exit_code == 1


def test_the_launcher_of_a_checkout_is_the_same_command() -> None:
    out = subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "set-budget" in out.stdout
