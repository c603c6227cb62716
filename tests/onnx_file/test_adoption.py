"""``inspect --adopt``: files that lost their manifest, or more, to another tool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from exported_files import images, session
from tool_changes import (
    change,
    drop_bodies,
    drop_metadata,
    drop_overloads,
    fold_budget,
    input_as_constant,
    merge_equal_constants,
    read_elsewhere,
    rename_nodes,
)

from acm_export.base.errors import ModelFileError
from acm_export.cli import main
from acm_export.engine.prepare import prepare
from acm_export.engine.release import Release
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import TARGETS
from acm_export.runtimes.runnable import runnable_copy

if TYPE_CHECKING:
    from pathlib import Path


def run(path: Path, budget: float | None = None) -> Any:
    feeds = {"pixel_values": images(3).numpy()} | ({"budget": np.array(budget, np.float32)} if budget else {})
    return session(path).run(None, feeds)[0]


CASES = {
    "metadata": ("calibrated", [drop_metadata]),
    "overloads": ("calibrated", [drop_metadata, drop_overloads]),
    "equal constants": ("plain", [merge_equal_constants]),
    "constants of others": ("plain", [read_elsewhere]),
    "input, constants of others": ("input", [read_elsewhere]),
    "names": ("calibrated", [drop_metadata, rename_nodes]),
    "int8": ("int8", [drop_metadata, drop_bodies, merge_equal_constants]),
    "input, constants": ("input", [merge_equal_constants]),
    "input, folded": ("input", [fold_budget]),
    "input as a constant": ("input", [drop_metadata, drop_bodies, input_as_constant]),
}


@pytest.mark.parametrize("kind", ["onnx", "json", "manifest"])
@pytest.mark.parametrize("case", CASES)
def test_a_changed_file_is_the_original_again(case: str, kind: str, originals: Path, tmp_path: Path) -> None:
    name, changes = CASES[case]
    original = originals / f"{name}.onnx"
    source = original if kind == "onnx" else tmp_path / "m.json"
    before = inspect(original)
    if kind != "onnx":
        content = before.to_json()
        source.write_text(json.dumps(content if kind == "json" else content["manifest"]))
    changed = change(original, tmp_path / "changed.onnx", *changes)
    fixed = tmp_path / "fixed.onnx"
    assert inspect(changed, adopt=source, output=fixed) == inspect(fixed)
    after = inspect(fixed)
    assert (after.manifest, after.thresholds) == (before.manifest, before.thresholds)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    for budget in (0.4, 0.8) if name == "input" else (None,):
        np.testing.assert_array_equal(run(fixed, budget), run(original, budget))
    set_budget(fixed, max_learners=2, output=tmp_path / "set.onnx")
    set_budget(original, max_learners=2, output=tmp_path / "expected.onnx")
    np.testing.assert_array_equal(run(tmp_path / "set.onnx"), run(tmp_path / "expected.onnx"))
    copy, _ = runnable_copy(onnx.load(fixed), after.manifest)  # as verify runs it: without the budget input
    assert set(before.thresholds) <= {v.name.removesuffix(".thresholds") for v in copy.graph.input}
    session(copy.SerializeToString())
    for version in ((8, 5), (10, 3)):
        assert prepare(fixed, Release(version)).manifest.layers == before.manifest.layers


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "portable"])
@pytest.mark.parametrize("name", ["calibrated", "input", "int8"])
def test_files_for_every_target_get_their_manifest_back(
    target: str, name: str, originals: Path, tmp_path: Path
) -> None:
    source = tmp_path / "m.onnx"
    retarget(originals / f"{name}.onnx", source, target=target)
    changed = change(source, tmp_path / "changed.onnx", drop_metadata, merge_equal_constants)
    after = inspect(changed, adopt=source, output=changed)
    assert after.manifest == inspect(source).manifest
    retarget(changed, tmp_path / "portable.onnx", target="portable")
    retarget(source, tmp_path / "expected.onnx", target="portable")
    np.testing.assert_array_equal(run(tmp_path / "portable.onnx"), run(tmp_path / "expected.onnx"))


def test_a_file_without_its_manifest_names_the_command(originals: Path, tmp_path: Path) -> None:
    changed = change(originals / "plain.onnx", tmp_path / "x.onnx", drop_metadata)
    with pytest.raises(ModelFileError, match="dropped it") as caught:
        inspect(changed)
    assert f"inspect {changed} --adopt" in str(caught.value.hint)


def test_the_command_writes_the_file(originals: Path, tmp_path: Path) -> None:
    changed = change(originals / "calibrated.onnx", tmp_path / "x.onnx", drop_metadata)
    printed = CliRunner().invoke(main, ["inspect", str(originals / "calibrated.onnx"), "--json"])
    (tmp_path / "m.json").write_text(printed.stdout)
    arguments = ["inspect", str(changed), "--adopt", str(tmp_path / "m.json"), "-o", str(tmp_path / "fixed.onnx")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert inspect(tmp_path / "fixed.onnx").manifest == inspect(originals / "calibrated.onnx").manifest
