"""Conversion of the ACM authors' weights to a Hugging Face model with the same logits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import reference_vit as vit
import torch
from reference_vit import HEADS, acm_layer, acm_state, dense_state, with_acm
from safetensors.torch import save_file

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints import convert as convert_to_folder
from acm_export.checkpoints import convert_reference, load_checkpoint
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints.reference import ConvertedModel

MINIMUM = {"q_proj": 1, "o_proj": 1}
MLP0, Q0 = "encoder.layers.encoder_layer_0.mlp", "encoder.layers.encoder_layer_0.self_attention.q_proj"
INF = float("inf")


def convert(folder: Path, state: vit.State, args: Any = None, **options: Any) -> ConvertedModel:
    torch.save({"args": args, "final_score": 0.9, "model_state": state, "model_flops": 1}, folder / "reference.pth")
    return convert_reference(folder / "reference.pth", **({"num_heads": HEADS} | options))


def logits(converted: ConvertedModel, images: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    for _, layer in acm_layers(converted.model):
        layer.thresholds.fill_(threshold)
    with torch.no_grad():
        result: torch.Tensor = converted.model(images).logits
    return result


@pytest.mark.parametrize("threshold", [0.0, INF, -INF])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_acm_model_matches_a_handwritten_forward_pass(threshold: float, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    state, images = acm_state(), torch.randn(3, 1, 8, 8)
    converted = convert(tmp_path, state)
    expected = vit.forward(state, images, minimum=MINIMUM, threshold=threshold)
    torch.testing.assert_close(logits(converted, images, threshold), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_dense_model_matches_a_handwritten_forward_pass(fused: bool, tmp_path: Path) -> None:
    state, images = dense_state(), torch.randn(3, 1, 8, 8)
    converted = convert(tmp_path, vit.fused_projections(state) if fused else state)
    assert converted.num_learners is None
    assert not list(acm_layers(converted.model))
    torch.testing.assert_close(logits(converted, images), vit.forward(state, images), rtol=1e-4, atol=1e-4)


def test_acm_ffns_beside_fused_projections_are_read(tmp_path: Path) -> None:
    state, images = with_acm(dense_state(), MLP0, acm_layer()), torch.randn(2, 1, 8, 8)
    converted = convert(tmp_path, vit.fused_projections(state))
    torch.testing.assert_close(logits(converted, images), vit.forward(state, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dense_width", [vit.FFN, 40])
@pytest.mark.parametrize("acm_index", [0, 1])
def test_the_dense_ffns_beside_acm_layers_may_have_any_width(acm_index: int, dense_width: int, tmp_path: Path) -> None:
    state = dense_state()
    other = f"encoder.layers.encoder_layer_{1 - acm_index}.mlp"
    state |= vit.linear(f"{other}.0", 12, dense_width) | vit.linear(f"{other}.3", dense_width, 12)
    state = with_acm(state, f"encoder.layers.encoder_layer_{acm_index}.mlp", acm_layer())
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(
        logits(convert(tmp_path, state), images), vit.forward(state, images), rtol=1e-4, atol=1e-4
    )


def test_b2_becomes_its_cumulative_sum_and_missing_biases_become_zero(tmp_path: Path) -> None:
    state = acm_state()
    layers = dict(acm_layers(convert(tmp_path, state).model))
    rows = state[f"{MLP0}.b2"].reshape(5, 12)
    for count in range(5):
        torch.testing.assert_close(layers["vit.layers.0.mlp"].b2[count], rows[: count + 1].sum(0))
    assert torch.equal(layers["vit.layers.0.attention.q_proj"].b1, torch.zeros(8))
    assert torch.equal(layers["vit.layers.1.mlp"].b2, torch.zeros(5, 12))


def test_n_and_min_learners_are_inferred_from_the_weights(tmp_path: Path) -> None:
    converted = convert(tmp_path, acm_state())
    specs = {name: layer.spec for name, layer in acm_layers(converted.model)}
    assert converted.num_learners == 4
    assert {n: (s.hidden_dim, s.min_learners, s.activation, s.gate_hidden) for n, s in specs.items()} == {
        "vit.layers.0.mlp": (6, 0, "gelu", ()),
        "vit.layers.0.attention.q_proj": (2, 1, "identity", ()),
        "vit.layers.1.attention.o_proj": (3, 1, "identity", (5,)),
        "vit.layers.1.mlp": (6, 0, "gelu", (7, 5)),
    }
    assert {s.gate_activation for s in specs.values()} == {"identity"}
    said = " ".join(converted.inferred)
    assert "N = 4" in said
    assert "min_learners = 1 for q_proj" in said
    config = converted.model.config
    assert (config.layer_norm_eps, config.hidden_act, config.image_size, config.patch_size) == (1e-6, "gelu", 8, 4)
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_labels) == (2, 3, 5)
    assert not converted.model.training


def test_flags_that_agree_with_the_weights_are_accepted(tmp_path: Path) -> None:
    converted = convert(tmp_path, acm_state(), num_learners=4, min_learners=MINIMUM)
    assert converted.num_learners == 4


@pytest.mark.parametrize("options", [{}, {"num_learners": 4}, {"min_learners": {"q_proj": 1}}])
def test_n_is_inferred_from_b2_if_every_gate_skips_the_first_learners(options: dict[str, Any], tmp_path: Path) -> None:
    state, images = with_acm(dense_state(), Q0, acm_layer(h=6, minimum=1)), torch.randn(2, 1, 8, 8)
    converted = convert(tmp_path, state, **options)
    assert converted.num_learners == 4
    assert [layer.spec.min_learners for _, layer in acm_layers(converted.model)] == [1]
    assert any("b2" in line for line in converted.inferred) == ("num_learners" not in options)
    expected = vit.forward(state, images, minimum={"q_proj": 1})
    torch.testing.assert_close(logits(converted, images), expected, rtol=1e-4, atol=1e-4)


def test_without_b2_a_file_whose_gates_all_skip_the_first_learners_needs_the_flag(tmp_path: Path) -> None:
    state, images = with_acm(dense_state(), Q0, acm_layer(h=6, minimum=1, b2=False)), torch.randn(2, 1, 8, 8)
    assert any("--min-learners" in line for line in convert(tmp_path, state).inferred)
    with pytest.raises(CheckpointError, match="N = 4"):
        convert(tmp_path, state, num_learners=4)
    for options in ({"min_learners": {"q_proj": 1}}, {"min_learners": {"q_proj": 1}, "num_learners": 4}):
        converted = convert(tmp_path, state, **options)
        assert converted.num_learners == 4
        expected = vit.forward(state, images, minimum={"q_proj": 1})
        torch.testing.assert_close(logits(converted, images), expected, rtol=1e-4, atol=1e-4)


def test_the_model_state_alone_as_safetensors_is_read(tmp_path: Path) -> None:
    state, images = acm_state(), torch.randn(2, 1, 8, 8)
    save_file(state, tmp_path / "state.safetensors")
    converted = convert_reference(tmp_path / "state.safetensors", num_heads=HEADS)
    expected = vit.forward(state, images, minimum=MINIMUM)
    torch.testing.assert_close(logits(converted, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_give_a_model_that_runs(dtype: torch.dtype, tmp_path: Path) -> None:
    state, images = {k: v.to(dtype) for k, v in acm_state().items()}, torch.randn(2, 1, 8, 8)
    converted = convert(tmp_path, state)
    expected = vit.forward({k: v.float() for k, v in state.items()}, images, minimum=MINIMUM)
    images = images.to(next(p for n, p in converted.model.named_parameters() if "conv" in n or "projection" in n).dtype)
    torch.testing.assert_close(logits(converted, images).float(), expected, rtol=0, atol=0.3)


def test_the_temperature_of_training_is_ignored(tmp_path: Path) -> None:
    convert(tmp_path, acm_state() | {f"{MLP0}.gating_network.gs_tau": torch.ones(1)})


def test_the_number_of_heads_is_read_from_the_file_if_recorded(tmp_path: Path) -> None:
    args = {"model_args": {"num_heads": HEADS}}
    converted = convert(tmp_path, dense_state(), args, num_heads=None)
    assert converted.model.config.num_attention_heads == HEADS
    assert any("num_heads = 3" in line for line in converted.inferred)
    with pytest.raises(CheckpointError, match=r"is 4, .*num_heads = 3"):
        convert(tmp_path, dense_state(), args, num_heads=4)
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path, dense_state(), num_heads=None)
    assert "--num-heads" in str(refused.value.hint)


def test_convert_writes_a_folder_and_says_what_it_inferred(tmp_path: Path) -> None:
    torch.save({"args": None, "model_state": with_acm(dense_state(), MLP0, acm_layer())}, tmp_path / "reference.pth")
    result = convert_to_folder(str(tmp_path / "reference.pth"), tmp_path / "out", num_heads=HEADS)
    checkpoint = load_checkpoint(tmp_path / "out")
    assert len(dict(acm_layers(checkpoint.model))) == result.num_layers == 1
    assert checkpoint.source == result.source
    content = json.loads(json.dumps(result.to_json()))
    assert content["output"] == str(tmp_path / "out")
    assert content["num_learners"] == result.num_learners
    assert content["inferred"] == list(result.inferred)
