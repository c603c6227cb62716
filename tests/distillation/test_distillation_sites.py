"""Recorded tensors of a teacher's sites, and learners initialised from its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_families import dense_model, interface, sites_of
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.choices import prefix_outputs
from acm_export.distillation.initialise import learners_from_ffn, learners_from_linear
from acm_export.distillation.record import PaddingListener, SiteRecorder
from acm_export.distillation.statistics import error_weights, gather_statistics
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.surgery.sites import ffn_weights

BATCH = 3
INPUTS: dict[str, dict[str, torch.Tensor]] = {
    "vit": {"pixel_values": torch.linspace(-1, 1, BATCH * 64).sin().reshape(BATCH, 1, 8, 8)},
    "bert": {
        "input_ids": torch.arange(BATCH * 6).reshape(BATCH, 6) % 20,
        "attention_mask": (torch.arange(6) < torch.tensor([[6], [4], [1]])).long(),
    },
    "wav2vec2 ctc, XLS-R": {
        "input_values": torch.linspace(0, 90, BATCH * 200).sin().reshape(BATCH, 200),
        "attention_mask": (torch.arange(200) < torch.tensor([[200], [120], [60]])).long(),
    },
    "whisper": {"input_features": torch.linspace(0, 90, BATCH * 160).sin().reshape(BATCH, 8, 20)},
}


def _dense(model: Any, site: Any, x: torch.Tensor) -> torch.Tensor:
    """The dense modules of a site; every FFN here has gelu."""
    up = model.get_submodule(site.up.module)(x)
    return up if site.down is None else model.get_submodule(site.down.module)(F.gelu(up))


@pytest.mark.parametrize("name", INPUTS)
def test_one_pass_records_inputs_and_outputs_of_all_sites(name: str) -> None:
    model = dense_model(name)
    sites = sites_of(model, "ffn,qkvo")
    with torch.no_grad(), SiteRecorder(model, interface(model), sites) as recorder:
        _, seen = recorder.run(INPUTS[name])
        assert set(seen) == {site.place for site in sites}
        for site in sites:
            torch.testing.assert_close(_dense(model, site, seen[site.place].x), seen[site.place].output)
            if site.kind == "ffn":
                down = model.get_submodule(site.down.module)
                torch.testing.assert_close(down(seen[site.place].hidden), seen[site.place].output)


def test_padding_is_excluded() -> None:
    model = dense_model("bert")
    sites = sites_of(model, "ffn")
    with torch.no_grad(), SiteRecorder(model, interface(model), sites) as recorder:
        _, seen = recorder.run(INPUTS["bert"])
        assert [len(found.x) for found in seen.values()] == [6 + 4 + 1] * len(sites)
        alone = {key: value[1:2, :4] for key, value in INPUTS["bert"].items()}
        _, expected = recorder.run(alone)
    for site in sites:
        torch.testing.assert_close(seen[site.place].x[6:10], expected[site.place].x, rtol=1e-4, atol=1e-5)


def test_the_padding_mask_covers_tokens_not_sound_samples() -> None:
    model = dense_model("wav2vec2 ctc, XLS-R")
    with torch.no_grad(), PaddingListener(model, interface(model)) as padding:
        logits = model(**INPUTS["wav2vec2 ctc, XLS-R"]).logits
        assert padding.valid is not None
        assert padding.valid.shape == logits.shape[:2]
        counts = padding.valid.sum(1).tolist()
        assert counts[0] == logits.shape[1]
        assert counts[0] > counts[1] > counts[2] > 0
        model(INPUTS["wav2vec2 ctc, XLS-R"]["input_values"])
        assert padding.valid is None


def test_hooks_are_removed_afterwards() -> None:
    model = dense_model("vit")
    with SiteRecorder(model, interface(model), sites_of(model, "ffn,qkvo")) as recorder:
        recorder.run(INPUTS["vit"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_recording_gradients_changes_no_output() -> None:
    model = dense_model("vit").requires_grad_(requires_grad=False)
    expected = model(**INPUTS["vit"]).logits
    sites = sites_of(model, "ffn")
    with SiteRecorder(model, interface(model), sites, record_gradients=True) as recorder:
        output, _ = recorder.run(INPUTS["vit"])
        output.logits.sum().backward()
        gradients = recorder.gradients()
    torch.testing.assert_close(output.logits, expected)
    assert all(float(g.abs().sum()) > 0 for g in gradients.values())


@pytest.mark.parametrize("name", ["vit", "bert", "whisper"])
def test_all_learners_initialised_from_an_ffn_match_the_ffn(name: str) -> None:
    model = dense_model(name)
    site = sites_of(model, "ffn")[0]
    found = gather_statistics(model, interface(model), (site,), [INPUTS[name]])[site.place]
    layer = ACMLayer(ACMSpec(12, 4, 6, activation=site.activation or "gelu"))
    learners_from_ffn(layer, ffn_weights(model, site), found)
    x = torch.randn(50, 12)
    with torch.no_grad():
        torch.testing.assert_close(prefix_outputs(layer, x)[:, -1], _dense(model, site, x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            layer.run(x, torch.tensor([0.0, 0, 0, 0, 9]).expand(50, 5))[0],
            _dense(model, site, x),
            rtol=1e-5,
            atol=1e-5,
        )


def test_neurons_are_distributed_by_importance_and_prefixes_have_the_mean_output_of_the_teacher() -> None:
    model = dense_model("vit")
    site = sites_of(model, "ffn")[0]
    with torch.no_grad(), SiteRecorder(model, interface(model), (site,)) as recorder:
        seen = recorder.run(INPUTS["vit"])[1][site.place]
    found = gather_statistics(model, interface(model), (site,), [INPUTS["vit"]])[site.place]
    layer = ACMLayer(ACMSpec(12, 4, 6))
    learners_from_ffn(layer, ffn_weights(model, site), found)
    with torch.no_grad():
        hidden = F.gelu(seen.x @ layer.w1 + layer.b1)
        importance = hidden.square().mean(0).sqrt() * layer.w2.norm(dim=1)
        assert bool((importance.diff() <= 1e-5).all())
        for prefix in prefix_outputs(layer, seen.x).unbind(1):
            torch.testing.assert_close(prefix.mean(0), seen.output.mean(0), rtol=1e-4, atol=1e-4)


def test_hidden_units_beyond_the_teachers_start_at_zero() -> None:
    model = dense_model("vit")
    site = sites_of(model, "ffn")[0]
    found = gather_statistics(model, interface(model), (site,), [INPUTS["vit"]])[site.place]
    layer = ACMLayer(ACMSpec(12, 4, 9))
    learners_from_ffn(layer, ffn_weights(model, site), found)
    x = torch.randn(20, 12)
    with torch.no_grad():
        torch.testing.assert_close(prefix_outputs(layer, x)[:, -1], _dense(model, site, x), rtol=1e-5, atol=1e-5)


def test_learners_of_a_projection_start_as_the_best_linear_map_of_their_rank() -> None:
    torch.manual_seed(0)
    model = dense_model("vit")
    site = next(s for s in sites_of(model, "qkvo") if s.kind == "q_proj")
    inputs = {"pixel_values": torch.randn(40, 1, 8, 8)}
    with torch.no_grad(), SiteRecorder(model, interface(model), (site,)) as recorder:
        seen = recorder.run(inputs)[1][site.place]
    found = gather_statistics(model, interface(model), (site,), [inputs])[site.place]
    layer = ACMLayer(ACMSpec(12, 3, 2, 1, "identity"))
    learners_from_linear(layer, *site.up.weights(model), found)
    centred = (seen.output - seen.output.mean(0)).double()
    values = torch.linalg.svdvals(centred).square()
    with torch.no_grad():
        prefixes = prefix_outputs(layer, seen.x)
    for index, rank in enumerate((2, 4, 6)):
        error = float((prefixes[:, index] - seen.output).square().sum())
        assert error == pytest.approx(float(values[rank:].sum()), rel=1e-3)


def test_sensitivities_are_gradients_of_the_output() -> None:
    model = dense_model("vit").requires_grad_(requires_grad=False)
    sites = sites_of(model, "ffn")
    torch.manual_seed(3)
    found = gather_statistics(model, interface(model), sites, [INPUTS["vit"]])
    torch.manual_seed(3)
    direction = torch.randn(BATCH, 5)
    place = sites[-1].place
    changed = copy.deepcopy(model)
    epsilon, squares = 1e-2, 0.0
    base = float((changed(**INPUTS["vit"]).logits * direction).sum()) / BATCH
    tokens = 5  # 4 patches and the class token
    for position in range(BATCH * tokens):
        for dim in range(12):
            bump = torch.zeros(BATCH * tokens, 12)
            bump[position, dim] = epsilon
            handle = changed.get_submodule(place).register_forward_hook(
                lambda _m, _i, o, bump=bump: o + bump.reshape(o.shape)
            )
            moved = float((changed(**INPUTS["vit"]).logits * direction).sum()) / BATCH
            handle.remove()
            squares += ((moved - base) / epsilon) ** 2
    assert found[place].sensitivity == pytest.approx(squares / (BATCH * tokens * 12), rel=0.05)


def test_error_weights_make_sites_comparable() -> None:
    model = dense_model("vit").requires_grad_(requires_grad=False)
    sites = sites_of(model, "ffn")
    found = gather_statistics(model, interface(model), sites, [INPUTS["vit"]])
    weights = error_weights(found)
    harms = [weights[site.place] * found[site.place].output_variance for site in sites]
    assert sum(harms) / len(harms) == pytest.approx(1)
