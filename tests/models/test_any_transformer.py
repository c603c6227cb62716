"""Every kind of transformer that users bring: surgery, export at several budgets, and the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tiny_architectures import NAMES, tiny_model
from tiny_models import randomize

from acm_export.cli import main
from acm_export.distillation.check_surgery import check_surgery
from acm_export.distillation.initialise import learners_from_ffn
from acm_export.distillation.statistics import gather_statistics
from acm_export.exporter import export
from acm_export.modules import acm_layers
from acm_export.onnx_file.set_budget import set_budget
from acm_export.surgery import PlacedLayer, find_sites, install_acm_layers, interface_of, prepare_model, spec_for
from acm_export.surgery.examples import example_inputs
from acm_export.surgery.sites import ffn_weights

if TYPE_CHECKING:
    from pathlib import Path

FAST = ("roberta", "llama", "whisper", "swin")
BY_COMMAND = ("roberta", "whisper", "swin", "gpt2", "wavlm large", "clip", "t5", "detr", "modernbert", "ast")
SLOW = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES]
THRESHOLDS = (float("-inf"), 0.0, float("inf"))


def with_layers(name: str) -> tuple[Any, Any]:
    """A dense model, and a copy with an ACM layer at every FFN whose learners hold the dense model's neurons."""
    torch.manual_seed(0)
    dense, model = tiny_model(name), tiny_model(name)
    model.load_state_dict(dense.state_dict())
    for part in (dense, model):
        prepare_model(part)
    interface = interface_of(dense)
    sites = [site for site in find_sites(dense, interface).sites if site.kind == "ffn"]
    assert sites
    statistics = gather_statistics(dense, interface, tuple(sites), [example_inputs(interface, batch=2)])
    install_acm_layers(model, interface, {site.place: PlacedLayer(spec_for(site, 3), site.emptied) for site in sites})
    layers = dict(acm_layers(model))
    for site in sites:
        learners_from_ffn(layers[site.place], ffn_weights(dense, site), statistics[site.place])
    check_surgery(dense, interface, sites, layers)
    return dense, model


def outputs(model: Any, inputs: dict[str, torch.Tensor], fields: tuple[str, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        found = model(**inputs)
    return [found[name].float().numpy() for name in fields]


@pytest.mark.parametrize("name", SLOW)
def test_all_learners_compute_the_dense_model(name: str) -> None:
    dense, model = with_layers(name)
    interface = interface_of(dense)
    for _, layer in acm_layers(model):
        assert layer.spec.num_learners * layer.spec.hidden_dim >= 24
        layer.thresholds.fill_(-torch.inf)
    inputs = example_inputs(interface, batch=3, seed=1)
    inputs.pop("attention_mask", None)  # padding does not run all learners
    for ours, theirs in zip(
        outputs(model, inputs, interface.outputs), outputs(dense, inputs, interface.outputs), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * max(np.abs(theirs).max(), 1))


@pytest.mark.parametrize("name", SLOW)
def test_the_file_computes_the_model_at_three_budgets_with_padding(name: str, tmp_path: Path) -> None:
    _, model = with_layers(name)
    randomize(model)
    interface = interface_of(model)
    path, axes = tmp_path / "m.onnx", interface.dynamic_axes()
    sample = example_inputs(interface)
    exported = export(model, sample, path, dynamic_shapes=axes, output_fields=interface.outputs, with_counts=True)
    assert exported.report is not None
    assert exported.report.passed
    inputs = example_inputs(interface, batch=3, seed=2)
    executed = []
    for threshold in THRESHOLDS:
        set_budget(path, threshold=threshold)
        for _, layer in acm_layers(model):
            layer.thresholds.fill_(threshold)
        found = run(path, inputs)
        expected = outputs(model, inputs, interface.outputs)
        for ours, theirs in zip(found, expected, strict=False):  # counts follow the outputs
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4 * max(np.abs(theirs).max(), 1))
        executed.append(sum(int(counts.sum()) for counts in found[len(expected) :]))
    assert executed[0] >= executed[1] >= executed[2] == 0
    assert executed[0] > 0


def run(path: Path, inputs: dict[str, torch.Tensor]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {value.name for value in session.get_inputs()}
    return list(session.run(None, {key: value.numpy() for key, value in inputs.items() if key in given}))


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in BY_COMMAND)])
def test_the_command_line_takes_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = CliRunner()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "dense")
    interface = interface_of(model)
    part = ["--part", "whole"] if name == "whisper" else []
    plan = cli.invoke(main, ["acmize", str(tmp_path / "dense"), "--dry-run", "--json", *part])
    assert plan.exit_code == 0, plan.output
    assert {site["kind"] for site in json.loads(plan.stdout)["sites"]} == {"ffn"}
    samples = [example_inputs(interface, batch=1, seed=seed) for seed in range(10)]
    data = {key: np.concatenate([sample[key].numpy() for sample in samples]) for key in samples[0]}
    np.savez(tmp_path / "data.npz", **data)
    common = ["--data", str(tmp_path / "data.npz")]
    steps = ["--steps", "2,1,1", "--batch", "4", "--learners", "3", "--task", "distil"]
    lines = (
        ["acmize", str(tmp_path / "dense"), *common, "-o", str(tmp_path / "acm"), *steps, *part],
        ["export", str(tmp_path / "acm"), "-o", str(tmp_path / "m.onnx"), *part],
        ["verify", str(tmp_path / "m.onnx"), "--checkpoint", str(tmp_path / "acm"), *part],
        ["calibrate", str(tmp_path / "m.onnx"), *common, "--budgets", "0.4,0.7", "-o", str(tmp_path / "c.onnx")],
        ["set-budget", str(tmp_path / "c.onnx"), "0.5"],
        ["inspect", str(tmp_path / "c.onnx")],
    )
    for line in lines:
        done = cli.invoke(main, line)
        assert done.exit_code == 0, (line, done.output, done.exception)
