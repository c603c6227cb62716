"""Wrong calls of all verbs, and their exact messages.

The stored messages are in messages.txt. After a change of wording, update them and read the difference:

    UPDATE_MESSAGES=1 python -m pytest -q tests/cli/test_messages.py
    git diff tests/cli/messages.txt
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from acm_export.cli import main
from acm_export.demo.digits import ACM, DENSE

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED = Path(__file__).parent / "messages.txt"
UPDATE = "UPDATE_MESSAGES" in os.environ

CALLS = """
inspct m.onnx
--json inspect m.onnx
acmize
acmize missing --dry-run
acmize m.onnx --dry-run
acmize acm --dry-run
acmize dense
acmize dense --dry-run --steps 1,2
acmize dense --dry-run --sites nothing
acmize dense --data missing.npz -o new
acmize dense --data wrong.npz -o missing/new
acmize dense --data wrong.npz -o folder
convert
convert missing.pth -o new
convert text.txt -o new
convert empty -o new
convert m.onnx -o new
convert folder -o new
convert acm -o new
convert array.npy -o new
convert wrong.npz -o new
convert engine.plan -o new
convert text.txt -o new --min-learners q_proj
export
export missing -o x.onnx
export google/vit-base-patch16-224 -o x.onnx
export m.onnx -o x.onnx
export folder -o x.onnx
export text.txt -o x.onnx
export acm
export acm -o x.onnx --dtype int8
export acm -o x.onnx --target tensorrt-8 --dtype bf16
export acm -o x.onnx --opset 17
export acm -o x.onnx --atol -1
export acm -o x.onnx --atol 1 --no-verify
export acm -o x.plan
export acm -o x.txt
export acm -o missing/x.onnx
verify m.onnx
verify missing.onnx --checkpoint acm
verify m.onnx --checkpoint missing
verify m.onnx --checkpoint m.onnx
verify m.onnx --checkpoint dense
verify m.onnx --checkpoint acm --atol nan
verify m.onnx --checkpoint acm --processor acm
verify m.onnx --checkpoint acm --data wrong.npz --processor missing
verify m.onnx --checkpoint acm --data no_module:make
verify acm --checkpoint acm
verify m.onnx --checkpoint acm --data missing.npz
verify m.onnx --checkpoint acm --data array.npy
verify m.onnx --checkpoint acm --data wrong.npz
verify m.onnx --checkpoint acm --data text.txt
verify m.onnx --checkpoint acm --data folder
verify m.onnx --checkpoint acm --samples 0
inspect
inspect missing.onnx
inspect acm
inspect folder
inspect text.txt
inspect empty
inspect truncated.onnx
inspect engine.plan
inspect google/vit-base-patch16-224
inspect wrong.npz
inspect models
inspect result.json
inspect other.onnx
inspect m.onnx m.onnx
inspect --model m.onnx
inspect m.onnx --jsn
inspect m.onnx -o x.onnx
inspect m.onnx --adopt m.onnx
inspect m.onnx --adopt m.onnx -o x.plan
inspect m.onnx --adopt m.onnx -o m.onnx
inspect m.onnx --adopt missing.onnx -o x.onnx
inspect m.onnx --adopt dense.onnx -o x.onnx
inspect m.onnx --adopt text.txt -o x.onnx
inspect m.onnx --adopt result.json -o x.onnx
inspect other.onnx --adopt m.onnx -o x.onnx
calibrate m.onnx -o x.onnx
calibrate missing.onnx --data wrong.npz -o x.onnx
calibrate acm --data wrong.npz -o x.onnx
calibrate m.onnx --data missing -o x.onnx
calibrate m.onnx --data wrong.npz -o x.onnx
calibrate m.onnx --data text.txt -o x.onnx
calibrate m.onnx --data folder -o x.onnx
calibrate m.onnx --data wrong.npz --budgets x -o x.onnx
calibrate m.onnx --data wrong.npz --budgets 1.5 -o x.onnx
calibrate m.onnx --data wrong.npz --budgets 0.5 -o wrong.npz
calibrate m.onnx --data wrong.npz --budgets 0.5 -o x.plan
calibrate m.onnx --data wrong.npz --flops 1 -o x.onnx
calibrate m.onnx --data wrong.npz --latency-target 0 --latency-file result.json -o x.onnx
calibrate m.onnx --data wrong.npz --latency-file result.json -o x.onnx
calibrate m.onnx --data wrong.npz --budgets 0.5 -o x.onnx --report r.pdf
calibrate m.onnx --data wrong.npz --latency-target 4ms -o x.onnx
calibrate m.onnx --data wrong.npz --latency-target 4ms --latency-file missing.json -o x.onnx
calibrate m.onnx --data wrong.npz --latency-target 4ms --latency-file text.txt -o x.onnx
set-budget m.onnx
set-budget missing.onnx 0.5
set-budget acm 0.5
set-budget result.json 0.5
set-budget other.onnx 0.5
set-budget m.onnx 0.5
set-budget m.onnx 2
set-budget m.onnx 40
set-budget 0.4 m.onnx
set-budget m.onnx 0.4 -o x.plan
set-budget dense.onnx 0.4
set-budget engine.plan 0.4
set-budget m.onnx -0.5
set-budget m.onnx --budget 0.4
set-budget m.onnx --max-learners 99
set-budget m.onnx 0.5 --trained
quantize m.onnx
quantize m.onnx -o x.onnx
quantize missing.onnx --data wrong.npz -o x.onnx
quantize acm --data wrong.npz -o x.onnx
quantize other.onnx --data wrong.npz -o x.onnx
quantize m.onnx --data missing -o x.onnx
quantize m.onnx --data wrong.npz -o x.onnx
quantize m.onnx --data text.txt -o x.onnx
quantize m.onnx --data wrong.npz -o wrong.npz
quantize m.onnx --data wrong.npz -o x.plan
quantize m.onnx --activations dynamic --keep nothing -o x.onnx
quantize m.onnx --activations dynamic --keep * -o x.onnx
quantize m.onnx --activations fast -o x.onnx
quantize m.onnx --weight-bits 4 -o x.onnx
quantize m.onnx --migration 2 -o x.onnx
quantize m.onnx --only linears -o x.onnx
retarget m.onnx -o x.onnx
retarget m.onnx --target tensorrt
retarget m.onnx --target tensorrt-9 -o x.onnx
retarget m.onnx --target tensorrt -o x.plan
retarget missing.onnx --target tensorrt -o x.onnx
retarget acm --target tensorrt -o x.onnx
retarget other.onnx --target tensorrt -o x.onnx
retarget m.onnx --target tensorrt -o missing/x.onnx
plugin-path
plugin-path --tensorrt 9
plugin-path m.onnx
build-plugin --pack missing
build-plugin --tensorrt-root missing
build-plugin --cuda-root missing
build-engine m.onnx
build-engine missing.onnx -o x.plan --dry-run
build-engine acm -o x.plan --dry-run
build-engine text.txt -o x.plan --dry-run
build-engine m.onnx -o m.onnx --dry-run
build-engine m.onnx -o x.onnx --dry-run
build-engine m.onnx -o x.plan --plugin missing.so --dry-run
build-engine m.onnx -o x.plan --data missing.npz --dry-run
build-engine m.onnx -o x.plan --processor acm --dry-run
build-engine m.onnx -o x.plan --min-shapes 1x2 --dry-run
build-engine m.onnx -o x.plan --data wrong.npz --no-check --dry-run
latency
latency missing.onnx
latency acm
latency text.txt
latency result.json
latency missing.plan
latency m.onnx --runtime cuda
latency m.onnx --budgets 0.5
latency m.onnx --budgets x
latency m.onnx --batch 0
latency m.onnx --duration -1
latency m.onnx --duration 0
latency m.onnx --duration 2s --runs 3
latency m.onnx --warm-up fast
latency m.onnx --percentile 101
latency m.onnx --processor acm
latency m.onnx --data missing
latency m.onnx --baseline missing.onnx
latency m.onnx --compare missing.json
latency m.onnx --compare text.txt
latency m.onnx --compare m.onnx
latency m.onnx --max-regression 5%
latency m.onnx --max-regression 5
latency m.onnx --assert-p99 fast
latency m.onnx --trtexec-times missing.json
latency m.onnx --plot x.pdf
latency m.onnx -o x.txt
doctor --for nothing
demo -o text.txt
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with valid and invalid inputs of every kind."""
    path = tmp_path_factory.mktemp("messages").resolve()
    shutil.copytree(ACM, path / "acm")
    shutil.copytree(DENSE, path / "dense")
    (path / "folder").mkdir()
    (path / "empty").touch()
    (path / "engine.plan").write_bytes(b"ftrt" + bytes(400))
    (path / "text.txt").write_text("text\n")
    (path / "result.json").write_text(json.dumps({"schema": 1}))
    np.save(path / "array.npy", np.zeros(3))
    np.savez(path / "wrong.npz", images=np.zeros((2, 3, 32, 32), np.float32))
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), path / "other.onnx")
    for checkpoint, name in ((ACM, "m.onnx"), (DENSE, "dense.onnx")):
        result = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(path / name), "--no-verify"])
        assert result.exit_code == 0, result.stderr
    content = (path / "m.onnx").read_bytes()
    (path / "truncated.onnx").write_bytes(content[: len(content) // 2])
    (path / "models").mkdir()
    shutil.copy(path / "m.onnx", path / "models")
    return path


@pytest.fixture(scope="module")
def messages() -> Iterator[dict[str, str]]:
    """The stored messages by call; those of a run that updates them are stored at its end."""
    blocks = STORED.read_text().split("$ acm-export ")[1:] if STORED.exists() else []
    stored = {block.partition("\n")[0]: block.partition("\n")[2].rstrip() for block in blocks}
    yield stored
    if UPDATE:
        calls = CALLS.strip().splitlines()
        STORED.write_text("\n".join(f"$ acm-export {call}\n{stored[call]}\n" for call in calls if call in stored))


@pytest.mark.parametrize("call", CALLS.strip().splitlines())
def test_a_wrong_call_prints_its_stored_message(
    call: str, folder: Path, messages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    result = CliRunner().invoke(main, call.split())
    printed = f"exit code {result.exit_code}\n{result.stderr}".replace(str(folder), "/folder").rstrip()
    assert "unexpected" not in printed, "an ordinary mistake must not look like a bug"
    assert "error: " in printed
    assert sorted(path.name for path in folder.iterdir()) == before
    if UPDATE:
        messages[call] = printed
    else:
        assert printed == messages.get(call), (
            "if the new wording is intended, update messages.txt (see the top of this file)"
        )
