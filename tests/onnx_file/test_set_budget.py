"""Budgets, thresholds and bounds that set_budget writes into a file."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from acm_export.base.errors import ModelFileError, OutputError, UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.cli import main
from acm_export.demo.digits import ACM
from acm_export.exporter import export
from acm_export.onnx_file.manifest import LayerEntry, Setting, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.thresholds import thresholds_for
from acm_export.runtimes.onnx_runtime import CpuSession

LAYER = LayerEntry("l", 8, 4, 2, 1, "gelu", 64, 8, 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("budget") / "m.onnx"
    export(load_checkpoint(ACM), output=path, verify=False, with_counts=True)
    return path


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "m.onnx"))


def counts(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    session = CpuSession(read_model(path), path.parent)
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    ran = session.run({"pixel_values": images})
    return np.stack([value for name, value in ran.items() if name.startswith("counts/")])


def test_thresholds_are_the_setting_up_to_the_bound() -> None:
    assert thresholds_for(LAYER, Setting(0.5)).tolist() == [0.5] * 4
    assert thresholds_for(LAYER, Setting(-1, 2)).tolist() == [-1, -1, np.inf, np.inf]
    assert thresholds_for(LAYER, Setting(0, 9)).tolist() == [0] * 4


def test_a_larger_threshold_is_cheaper_and_infinity_cheapest(model: Path, tmp_path: Path) -> None:
    means = []
    for tau in (float("-inf"), -2.0, 0.0, 3.0, float("inf")):
        set_budget(model, threshold=tau, output=tmp_path / "other.onnx")
        means.append(counts(tmp_path / "other.onnx").mean())
    assert means == sorted(means, reverse=True)
    assert means[0] == 4
    assert means[-1] == pytest.approx(9 / 15)  # q, k and v of three layers always run one learner


def test_a_bound_holds_for_every_token_and_can_be_raised_again(model: Path) -> None:
    before = counts(model)
    set_budget(model, max_learners=2)
    assert counts(model).max() == 2
    set_budget(model, max_learners=4)
    assert (counts(model) == before).all()


def test_trained_restores_the_same_bytes(model: Path) -> None:
    before = model.read_bytes()
    set_budget(model, threshold=1.5, max_learners=3)
    assert read_manifest(read_model(model), model).setting == Setting(1.5, 3)
    set_budget(model, trained=True)
    assert onnx.load(model) == onnx.load_from_string(before)


def test_omitted_options_keep_their_value(model: Path) -> None:
    set_budget(model, max_learners=3)
    assert set_budget(model, threshold=0.5).setting == Setting(0.5, 3)
    assert set_budget(model, trained=True, max_learners=2).setting == Setting(0.0, 2)


def test_the_file_changes_in_place_unless_an_output_is_given(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    set_budget(model, threshold=1.0, output=tmp_path / "other.onnx")
    assert model.read_bytes() == before
    set_budget(model, threshold=1.0)
    assert model.read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_external_weights_are_shared_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.onnx_file.staged_file.EXTERNAL_ABOVE", 0)
    path = tmp_path / "m.onnx"
    exported = export(load_checkpoint(ACM), output=path, verify=False)
    assert exported.data_path is not None
    exported.data_path.chmod(0o000)
    opened = []
    monkeypatch.setattr("shutil.copyfile", lambda *args: opened.append(args))
    set_budget(path, threshold=1.0)
    (tmp_path / "sub").mkdir()
    set_budget(path, threshold=2.0, output=tmp_path / "sub" / "m.onnx")
    assert (tmp_path / "sub" / exported.data_path.name).samefile(exported.data_path)
    assert not opened
    exported.data_path.chmod(0o600)
    assert CpuSession(read_model(tmp_path / "sub" / "m.onnx"), tmp_path / "sub").input_names == ["pixel_values"]


def test_a_linked_data_file_keeps_its_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.onnx_file.staged_file.EXTERNAL_ABOVE", 0)
    exported = export(load_checkpoint(ACM), output=tmp_path / "m.onnx", verify=False)
    assert exported.data_path is not None
    exported.data_path.chmod(0o440)
    (tmp_path / "sub").mkdir()
    set_budget(tmp_path / "m.onnx", threshold=2.0, output=tmp_path / "sub" / "m.onnx")
    set_budget(tmp_path / "m.onnx", threshold=2.0)
    assert stat.S_IMODE(exported.data_path.stat().st_mode) == 0o440
    assert (tmp_path / "sub" / exported.data_path.name).samefile(exported.data_path)


def test_a_file_that_is_changed_in_place_keeps_its_mode_and_its_link(model: Path, tmp_path: Path) -> None:
    model.chmod(0o640)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "m.onnx"
    link.symlink_to(model)
    set_budget(str(link), max_learners=2)
    assert link.is_symlink()
    assert stat.S_IMODE(model.stat().st_mode) == 0o640
    assert read_manifest(read_model(model), model).setting.max_learners == 2


def test_a_read_only_file_is_not_changed(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    model.chmod(0o444)
    with pytest.raises(OutputError, match="is read-only") as refused:
        set_budget(model, max_learners=2)
    assert "-o" in str(refused.value.hint)
    assert model.read_bytes() == before
    set_budget(model, max_learners=2, output=tmp_path / "other.onnx")


def test_a_file_without_acm_layers_has_no_budget(tmp_path: Path) -> None:
    export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "dense.onnx")
    for change in ({"trained": True}, {"max_learners": 1}, {"threshold": 1.0}, {"budget": 0.5}):
        with pytest.raises(ModelFileError, match="has 0 ACM layers") as refused:
            set_budget(tmp_path / "dense.onnx", **change)  # type: ignore[arg-type]
        assert "acm-export acmize" in str(refused.value.hint)


def test_impossible_settings_are_refused(model: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(UsageError, match="always runs 1"):
        set_budget(model, max_learners=0)
    with pytest.raises(UsageError, match="NaN"):
        set_budget(model, threshold=float("nan"))
    with pytest.raises(UsageError, match="no layer has more than 4"):
        set_budget(model, max_learners=5)
    for threshold, stored in ((1e39, "inf"), (-1e39, "-inf"), (1e-50, "0")):
        with pytest.raises(UsageError, match=f"which float32 stores as {stored}$"):
            set_budget(model, threshold=threshold)
    with pytest.raises(UsageError, match="nothing to set"):
        set_budget(model)
    with pytest.raises(ModelFileError, match="not calibrated"):
        set_budget(model, budget=0.5)
    assert model.read_bytes() == before


def test_a_graph_that_contradicts_its_manifest_is_refused(model: Path) -> None:
    broken = onnx.load(model)
    for tensor in list(broken.graph.initializer):
        if tensor.name == "vit.layers.0.mlp.thresholds":
            broken.graph.initializer.remove(tensor)
    onnx.save(broken, model)
    with pytest.raises(ModelFileError, match=r"vit\.layers\.0\.mlp\.thresholds"):
        set_budget(model, threshold=1.0)


def test_the_help_explains_the_data_file() -> None:
    text = " ".join(CliRunner().invoke(main, ["set-budget", "--help"]).stdout.split())
    assert "the data file there is a hard link to this one if the file system supports it" in text
