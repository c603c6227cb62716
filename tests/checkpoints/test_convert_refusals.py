"""Weights of the ACM authors' code that contradict themselves or the flags are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import reference_vit as vit
import torch
from reference_vit import HEADS, acm_layer, acm_state, dense_state, with_acm

from acm_export.base.errors import AcmWarning, CheckpointError, UsageError
from acm_export.checkpoints import convert_reference

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints.reference import ConvertedModel

MLP0 = "encoder.layers.encoder_layer_0.mlp"


def convert(folder: Path, state: vit.State, args: Any = None, **options: Any) -> ConvertedModel:
    torch.save({"args": args, "final_score": 0.9, "model_state": state, "model_flops": 1}, folder / "reference.pth")
    return convert_reference(folder / "reference.pth", **({"num_heads": HEADS} | options))


@pytest.mark.parametrize("heads", [5, 0, -3, 24])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{heads}.*12"):
        convert(tmp_path, dense_state(), num_heads=heads)


def test_nan_in_the_weights_gives_a_warning_with_the_name(tmp_path: Path) -> None:
    state = acm_state()
    state[f"{MLP0}.w1"][0, :2] = float("nan")
    state["class_token"][0, 0, 0] = float("inf")
    with pytest.warns(AcmWarning, match=rf"class_token \(1 of 12.*{MLP0}.w1 \(2 of 288 values\)"):
        convert(tmp_path, dict(sorted(state.items())))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_learners": 3}, r"5 rows.*N = 4.*--num-learners is 3"),
        ({"num_learners": 5}, r"5 rows.*N = 4.*--num-learners is 5"),
        ({"num_learners": 65}, "65"),
        ({"min_learners": {"q_proj": 2}, "num_learners": 4}, r"q_proj.*4 choices.*= 1.*--min-learners is 2"),
        ({"min_learners": {"mlp": 1}, "num_learners": 4}, r"mlp.*5 choices.*= 0.*--min-learners is 1"),
        ({"min_learners": {"q_proj": -1}}, r"q_proj.*-1"),
    ],
)
def test_flags_that_contradict_the_weights_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said) as refused:
        convert(tmp_path, acm_state(), **options)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_learners": 3}, r"5 choices.*N = 3"), ({"num_learners": 5}, "the widest, with 5 choices")],
)
def test_without_b2_the_gates_contradict_the_flags(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in acm_state().items() if not name.endswith(".b2")}
    with pytest.raises(CheckpointError, match=said):
        convert(tmp_path, state, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_learners": 0}, "--num-learners is 0"),
        ({"num_learners": -1}, "--num-learners is -1"),
        ({"min_learners": {"k_proj": 1}}, "k_proj"),
    ],
)
def test_impossible_options_are_usage_errors(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        convert(tmp_path, acm_state(), **options)
    assert refused.value.hint


def test_layers_whose_b2_give_different_n_are_refused_with_both(tmp_path: Path) -> None:
    state = with_acm(acm_state(), MLP0, acm_layer(n=3))
    with pytest.raises(CheckpointError, match=r"N = \d, but .* N = \d"):
        convert(tmp_path, state)


def test_names_are_checked_before_values(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    stray = {"foo.bar": torch.full((3,), float("nan"))}
    with pytest.raises(CheckpointError, match="foo") as refused:
        convert(tmp_path, acm_state() | stray)
    assert refused.value.hint
    assert not [warning for warning in recwarn if issubclass(warning.category, AcmWarning)]


def test_heads_that_the_file_records_are_in_the_hint_of_the_contradiction(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path, dense_state(), {"model_args": {"num_heads": HEADS}}, num_heads=4)
    assert str(HEADS) in str(refused.value.hint)


@pytest.mark.parametrize("options", [{"num_learners": 4}, {"min_learners": {"mlp": 1}}])
def test_flags_for_acm_layers_on_a_dense_file_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no ACM layers"):
        convert(tmp_path, dense_state(), **options)


@pytest.mark.parametrize(
    "missing",
    [
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.bias",
        "encoder.ln.weight",
        "heads.head.weight",
        "encoder.layers.encoder_layer_0.ln_1.bias",
        "encoder.layers.encoder_layer_1.self_attention.k_proj.weight",
        f"{MLP0}.w1",
        f"{MLP0}.w2",
        f"{MLP0}.gating_network.fc.weight",
        f"{MLP0}.gating_network.fc.bias",
        "encoder.layers.encoder_layer_1.mlp.gating_network.net.1.weight",
        "encoder.layers.encoder_layer_1.mlp.gating_network.net.2.bias",
    ],
)
def test_weights_without_a_tensor_are_refused(missing: str, tmp_path: Path) -> None:
    state = acm_state()
    del state[missing]
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path, state)
    assert refused.value.hint


def test_a_layer_without_a_gate_or_a_missing_transformer_layer_is_named(tmp_path: Path) -> None:
    state = {k: v for k, v in acm_state().items() if f"{MLP0}.gating_network" not in k}
    with pytest.raises(CheckpointError, match=rf"{MLP0} has no gate"):
        convert(tmp_path, state)
    state = {k.replace("encoder_layer_1", "encoder_layer_2"): v for k, v in dense_state().items()}
    with pytest.raises(CheckpointError, match=r"\[0, 2\]") as refused:
        convert(tmp_path, state)
    assert refused.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "decoder.weight",
        "encoder.layers.encoder_layer_0.mlp.bn.weight",
        "conv_proj.0.0.weight",
        "heads.pre_logits.weight",
        f"{MLP0}.gating_network.scale",
        f"{MLP0}.gating_network.net.0.running_mean",
        f"{MLP0}.w3",
        "encoder.layers.encoder_layer_x.ln_1.weight",
        "w1",
        "model.class_token",
    ],
)
def test_tensors_that_are_not_part_of_that_model_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path, acm_state() | {name: torch.ones(3)})
    assert refused.value.hint


def test_a_gate_with_modules_between_its_maps_is_refused(tmp_path: Path) -> None:
    state = with_acm(dense_state(), MLP0, acm_layer(gate=(7,)))
    state = {k.replace("net.1.", "net.2."): v for k, v in state.items()}  # net.1 would be an activation
    with pytest.raises(CheckpointError, match=r"gate|net"):
        convert(tmp_path, state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{MLP0}.w1", (24, 12)), (f"{MLP0}.w1", (12, 23)), (f"{MLP0}.w2", (24,)), (f"{MLP0}.b1", (23,)),
        (f"{MLP0}.b2", (48,)), (f"{MLP0}.b2", (61,)), (f"{MLP0}.gating_network.fc.weight", (5, 11)),
        (f"{MLP0}.gating_network.fc.weight", (5,)), (f"{MLP0}.gating_network.fc.bias", (4,)), (f"{MLP0}.w1", ()),
        ("encoder.layers.encoder_layer_1.mlp.gating_network.net.1.weight", (5, 6)), ("class_token", ()),
        ("class_token", (1, 12)), ("encoder.pos_embedding", (5,)), ("encoder.pos_embedding", (1, 6, 12)),
        ("encoder.pos_embedding", ()), ("encoder.pos_embedding", (1, 1, 12)), ("conv_proj.weight", (12, 1, 4, 3)),
        ("conv_proj.weight", (12, 4)), ("conv_proj.weight", (8, 1, 4, 4)), ("heads.head.weight", ()),
        ("heads.head.weight", (5, 11)), ("encoder.layers.encoder_layer_0.ln_1.weight", (11,)),
        ("encoder.layers.encoder_layer_1.self_attention.k_proj.weight", (11, 12)), ("encoder.ln.bias", (12, 1)),
    ],
)  # fmt: skip  # a table
def test_tensors_of_another_shape_are_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = acm_state()
    state[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path, state)
    assert refused.value.hint


@pytest.mark.parametrize("shape", [(), (2,), (37, 12), (36, 11), (36,)])
def test_fused_projections_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    state = vit.fused_projections(dense_state())
    state["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] = torch.zeros(shape)
    with pytest.raises(CheckpointError):
        convert(tmp_path, state)


@pytest.mark.parametrize("name", [f"{MLP0}.w1", "heads.head.weight", f"{MLP0}.gating_network.fc.weight"])
def test_weights_that_are_not_floating_are_refused_with_the_name(name: str, tmp_path: Path) -> None:
    state = acm_state()
    state[name] = torch.zeros(state[name].shape, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=name.rpartition(".")[2]):
        convert(tmp_path, state)


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"random bytes, no tensors"])
def test_a_safetensors_file_that_is_missing_or_broken_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError if content is None else CheckpointError):
        convert_reference(path, num_heads=HEADS)
