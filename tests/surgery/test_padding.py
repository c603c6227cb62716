"""Padding tokens run min_learners, in PyTorch and in the file, and do not affect other tokens."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from exported_files import run
from tiny_families import acm_model, dense_model, install_sites, interface, sites_of
from tiny_models import randomize

from acm_export.calibration.evaluator import Evaluator
from acm_export.calibration.families import token_count
from acm_export.data.batches import Batch
from acm_export.exporter import example_inputs, export
from acm_export.modules import acm_layers
from acm_export.modules.wrapper import Exportable
from acm_export.runtimes.session import TappedSession
from acm_export.surgery import spec_for
from acm_export.verification.compare import verify_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("bert tokens", "wav2vec2 ctc, XLS-R")


def valid_tokens(model: Any, inputs: dict[str, torch.Tensor]) -> NDArray[np.bool_]:
    """Counted by hand: tokens whose samples are all there."""
    lengths = inputs["attention_mask"].sum(1)
    total = torch.tensor(inputs["attention_mask"].shape[1])
    for kernel, stride in zip(*(getattr(model.config, f"conv_{n}", ()) for n in ("kernel", "stride")), strict=True):
        lengths, total = ((n - kernel) // stride + 1 for n in (lengths, total))
    return (torch.arange(int(total)) < lengths[:, None]).numpy()


def padded(model: Any, batch: int = 4) -> dict[str, torch.Tensor]:
    """Random values at padding too."""
    return example_inputs(interface(model), batch, seed=3)


@pytest.fixture(scope="module", params=[NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model whose first layer always runs one learner, and its file with counts."""
    torch.manual_seed(0)
    model = dense_model(request.param)
    sites = sites_of(model, "ffn,qkvo")
    install_sites(model, {s: spec_for(s, 4, min_learners=int(".0." in s.place)) for s in sites})
    randomize(model)
    path = tmp_path_factory.mktemp("padding") / "m.onnx"
    axes = interface(model).dynamic_axes()
    export(model, padded(model), path, with_counts=True, dynamic_shapes=axes, output_fields=("logits",))
    return model, path


def test_padding_runs_the_fewest_learners_in_the_file_at_every_threshold(case: tuple[Any, Path]) -> None:
    model, path = case
    inputs = padded(model)
    valid = valid_tokens(model, inputs)
    assert 0 < valid.sum() < valid.size
    session = TappedSession(path)
    for tau in (0.0, 5.0, np.inf, -np.inf):
        thresholds = np.full(session.num_thresholds, tau, np.float32)
        feeds = {name: value.numpy() for name, value in inputs.items()}
        outputs, counts = session.run(feeds, thresholds)
        assert np.isfinite(outputs["logits"]).all()
        for layer, count in zip(session.layers, counts, strict=True):
            assert (count[~valid] == layer.min_learners).all()
            if tau == -np.inf:
                assert (count[valid] == layer.num_learners).all()


def test_pytorch_and_the_file_count_the_same_learners(case: tuple[Any, Path]) -> None:
    model, path = case
    inputs = padded(model)
    seen = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda part, args, name=name: seen.__setitem__(name, part.run(args[0], part.gate_logits(args[0]))[1])
        )
        for name, layer in acm_layers(model)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    ran = run(path, **inputs)
    assert len(seen) == 10
    for name, count in seen.items():
        assert (count.numpy() == ran[f"counts/{name}"]).all()


def test_a_sample_has_the_same_output_alone_and_padded(case: tuple[Any, Path]) -> None:
    model, path = case
    inputs = padded(model)
    together = run(path, **inputs)["logits"]
    valid = valid_tokens(model, inputs)
    for index in range(len(valid)):
        length = int(inputs["attention_mask"][index].sum())
        alone = run(path, **{name: value[index : index + 1, :length] for name, value in inputs.items()})["logits"]
        assert alone.shape[1] == valid[index].sum()
        assert np.abs(together[index, valid[index]] - alone[0]).max() <= 1e-4 * np.abs(alone).max()


def test_calibration_excludes_padding(case: tuple[Any, Path]) -> None:
    model, path = case
    feeds = {name: value.numpy() for name, value in padded(model, 8).items()}
    session = TappedSession(path)

    def batches() -> Iterator[Batch]:
        yield Batch(feeds)

    evaluator = Evaluator(session, batches)
    summaries = evaluator.reference()
    valid = int(valid_tokens(model, padded(model, 8)).sum())
    everything = np.full(session.num_thresholds, -np.inf, np.float32)
    measured = evaluator.measure(everything)
    evaluator.close()
    assert measured.budget == 1
    assert measured.divergence < 1e-12
    assert {token_count(layer) for layer in summaries} == {valid}


def test_the_mask_is_removed_after_the_pass() -> None:
    model = acm_model("bert")
    inputs = padded(model)
    layers = [layer for _, layer in acm_layers(model)]
    held: list[bool] = []
    handle = layers[0].register_forward_pre_hook(lambda layer, _args: held.append(layer.valid is not None))
    model(**inputs)
    model(inputs["input_ids"], inputs["attention_mask"])
    model(inputs["input_ids"])
    handle.remove()
    assert held == [True, True, False]
    with pytest.raises(IndexError):
        model(inputs["input_ids"] + 1000, inputs["attention_mask"])
    assert all(layer.valid is None for layer in layers)


def test_copies_mark_padding_in_their_own_layers() -> None:
    model = acm_model("wav2vec2, XLS-R")
    inputs = padded(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected, got = model(**inputs)[0], twin(**inputs)[0]
        for _, layer in acm_layers(model):
            layer.b2.zero_()
        again = twin(**inputs)[0]
    assert torch.equal(expected, got)
    assert torch.equal(expected, again)


def test_a_mask_without_padding_changes_nothing() -> None:
    model = acm_model("bert")
    ids = padded(model)["input_ids"]
    with torch.no_grad():
        for mask in (torch.ones_like(ids), torch.ones(*ids.shape, ids.shape[1]).long()):
            masked = model(input_ids=ids, attention_mask=mask)[0]
            assert torch.allclose(masked, model(input_ids=ids)[0], atol=1e-6)


def test_verification_does_not_count_padding(case: tuple[Any, Path]) -> None:
    model, path = case
    inputs = padded(model)
    report = verify_model(path, Exportable(model, list(inputs), torch.float32, ("logits",)), inputs)
    valid = valid_tokens(model, inputs)
    counts, layers = run(path, **inputs), TappedSession(path).layers
    ran = sum(layer.learner_flops * float(counts[f"counts/{layer.name}"][valid].sum()) for layer in layers)
    everything = sum(layer.learner_flops * layer.num_learners * int(valid.sum()) for layer in layers)
    assert report.settings[0].name == "τ = 0"
    assert report.settings[0].budget == pytest.approx(ran / everything, rel=1e-6)
