"""The int8 tensors of the int8 operator in files for TensorRT: packed into int32, weights transposed, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from acm_export.base.errors import ExportError
from acm_export.onnx_file.lowering.pack_int8 import pack_int8, unpack_int8
from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting, Source
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes, rewrite_for
from acm_export.op import DOMAIN
from acm_export.op.quantized_signature import INT8_INPUTS, QUANTIZED_INPUTS

if TYPE_CHECKING:
    from pathlib import Path

FOR_TENSORRT = sorted(TARGETS.keys() - {"portable"})
SIZES = st.integers(1, 9)


def layer(name: str, model_dim: int, num_learners: int, hidden_dim: int, *, glu: bool = False) -> LayerEntry:
    return LayerEntry(name, model_dim, num_learners, hidden_dim, 0, "gelu", 1, 1, 1, "static", glu)


def int8_names(entry: LayerEntry) -> list[str]:
    return [name for name in entry.signature.inputs if name in INT8_INPUTS]


def model_of(*layers: LayerEntry, seed: int = 0) -> onnx.ModelProto:
    """A chain of int8 layers with random values."""
    rng, nodes, tensors, x = np.random.default_rng(seed), [], [], "x"
    for entry in layers:
        d, n, width = entry.model_dim, entry.num_learners, entry.num_learners * entry.hidden_dim
        int8 = {"w1": (d, width), "v1": (d, width), "h_zero": (n,), "w2": (width, d)}
        floats = {"x_mult": (d,), "s1": (width,), "b1": (width,), "t1": (width,), "c1": (width,), "h_mult": (n,)}
        floats |= {"s2": (d,), "b2": (n + 1, d)}
        values = {name: rng.integers(-127, 128, shape).astype(np.int8) for name, shape in int8.items()}
        values |= {name: rng.normal(size=shape).astype(np.float32) for name, shape in floats.items()}
        values = {name: value for name, value in values.items() if name in entry.signature.inputs}
        values["thresholds"] = np.zeros(n, np.float32)
        names = {key: entry.thresholds if key == "thresholds" else f"{entry.name}.int8.{key}" for key in values}
        tensors += [numpy_helper.from_array(value, names[key]) for key, value in values.items()]
        inputs = [names.get(key, {"x": x, "gate_logits": "z"}.get(key)) for key in entry.signature.inputs]
        outputs = [f"{entry.name}.y", f"counts/{entry.name}"]
        attributes = {"num_learners": n, "min_learners": 0, "activation": "gelu", "dynamic": 0}
        node = helper.make_node(entry.signature.operator, inputs, outputs, name=entry.name, domain=DOMAIN, **attributes)
        nodes.append(node)
        x = outputs[0]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "z", x)]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)])


def manifest_of(*layers: LayerEntry) -> Manifest:
    return Manifest(Source("m"), "fp32", "portable", 20, layers, 0, {}, Setting(), "test")


def tensors_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@given(d=SIZES, n=SIZES, h=SIZES, seed=st.integers(0, 99), glu=st.booleans())
def test_packed_bytes_are_those_of_the_transposed_weights(d: int, n: int, h: int, seed: int, glu: bool) -> None:
    entry = layer("a", d, n, h, glu=glu)
    model = model_of(entry, seed=seed)
    packed = copy_of(model)
    pack_int8(packed.graph)()
    for name, tensor in tensors_of(model).items():
        found = tensors_of(packed)[name]
        if name.rpartition(".")[2] not in INT8_INPUTS:
            assert found == tensor
            continue
        values = numpy_helper.to_array(tensor)
        size = values.size
        assert found.data_type == TensorProto.INT32
        assert list(found.dims) == [(size + 3) // 4]
        content = np.frombuffer(found.raw_data, np.int8)
        assert content[size:].tolist() == [0] * (-size % 4)
        for position in np.ndindex(values.shape):  # the dumb loop: W1[k, c] lies at c * D + k, W2[k, c] at c * N*h + k
            flat = position[0] if values.ndim == 1 else position[1] * values.shape[0] + position[0]
            assert content[flat] == values[position]
    unpack_int8(packed.graph, [entry])()
    assert packed == model


def test_an_element_holds_four_values_little_endian() -> None:
    entry = layer("a", 1, 5, 1)
    model = model_of(entry)
    zeros = np.array([1, -2, 3, -128, 5], np.int8)
    tensors_of(model)["a.int8.h_zero"].CopyFrom(numpy_helper.from_array(zeros, "a.int8.h_zero"))
    pack_int8(model.graph)()
    packed = numpy_helper.to_array(tensors_of(model)["a.int8.h_zero"])
    assert packed.tolist() == [1 + (254 << 8) + (3 << 16) + (128 << 24) - (1 << 32), 5]


@pytest.mark.parametrize("target", FOR_TENSORRT)
@pytest.mark.parametrize("again", FOR_TENSORRT)
def test_every_target_of_tensorrt_packs_once_and_portable_unpacks(target: str, again: str) -> None:
    layers = (layer("a", 6, 3, 5), layer("b", 6, 2, 3, glu=True))
    model = model_of(*layers)
    moved = copy_of(model)
    manifest = rewrite_for(moved, manifest_of(*layers), target)
    first = {name: tensor.SerializeToString() for name, tensor in tensors_of(moved).items()}
    int8 = [f"{entry.name}.int8.{name}" for entry in layers for name in int8_names(entry)]
    assert {tensors_of(moved)[name].data_type for name in int8} == {TensorProto.INT32}
    manifest = rewrite_for(moved, manifest, again)
    assert {name: tensor.SerializeToString() for name, tensor in tensors_of(moved).items()} == first
    rewrite_for(moved, manifest, "portable")
    assert tensors_of(moved) == tensors_of(model)
    assert [list(node.input) for node in gated_learners_nodes(moved)] == [list(node.input) for node in model.graph.node]


def test_a_weight_that_two_layers_share_is_packed_once() -> None:
    entries = (layer("a", 4, 2, 3), layer("b", 4, 2, 3))
    model = model_of(*entries)
    for key in int8_names(entries[0]):
        model.graph.node[1].input[QUANTIZED_INPUTS.index(key)] = f"a.int8.{key}"
    kept = [
        tensor
        for tensor in model.graph.initializer
        if tensor.name[:7] != "b.int8." or tensor.name[7:] not in INT8_INPUTS
    ]
    shared = copy_of(model)
    del shared.graph.initializer[:]
    shared.graph.initializer.extend(kept)
    packed = copy_of(shared)
    pack_int8(packed.graph)()
    assert list(tensors_of(packed)["a.int8.w1"].dims) == [6]
    unpack_int8(packed.graph, entries)()
    assert packed == shared


def test_types_that_the_graph_states_for_weights_go_and_others_stay() -> None:
    model = model_of(layer("a", 4, 2, 3))
    stated = [
        helper.make_tensor_value_info("a.int8.w1", TensorProto.INT8, [4, 6]),
        helper.make_tensor_value_info("a.y", TensorProto.FLOAT, None),
    ]
    model.graph.value_info.extend(stated)
    pack_int8(model.graph)()
    assert list(model.graph.value_info) == stated[1:]


def test_values_in_int32_data_are_packed_too() -> None:
    model = model_of(layer("a", 2, 1, 2))
    values = np.array([[1, 2], [3, 4]], np.int8)
    tensor = tensors_of(model)["a.int8.w1"]
    tensor.CopyFrom(helper.make_tensor("a.int8.w1", TensorProto.INT8, [2, 2], values.flatten().tolist()))
    pack_int8(model.graph)()
    assert tensors_of(model)["a.int8.w1"].raw_data == bytes([1, 3, 2, 4])


@pytest.mark.parametrize("target", FOR_TENSORRT)
def test_external_weights_need_their_folder_and_then_move_into_the_file(target: str, tmp_path: Path) -> None:
    entry = layer("a", 6, 3, 5)
    model = model_of(entry)
    convert_model_to_external_data(model, location="weights", size_threshold=0)
    onnx.save(copy_of(model), tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    before = stored.SerializeToString(deterministic=True)
    with pytest.raises(ExportError, match=r"a\.int8\.w1 are stored in another file and") as refused:
        rewrite_for(stored, manifest_of(entry), target)
    assert "export --target" in str(refused.value.hint)
    assert stored.SerializeToString(deterministic=True) == before
    manifest = rewrite_for(stored, manifest_of(entry), target, folder=tmp_path)
    expected = model_of(entry)
    pack_int8(expected.graph)()
    for name in int8_names(entry):
        assert tensors_of(stored)[f"a.int8.{name}"] == tensors_of(expected)[f"a.int8.{name}"]
    assert tensors_of(stored)["a.int8.s1"].data_location == TensorProto.EXTERNAL
    onnx.save(stored, tmp_path / "packed.onnx")
    rewrite_for(stored, manifest, "portable")
    assert tensors_of(stored)["a.int8.w2"] == tensors_of(model_of(entry))["a.int8.w2"]


def refused(model: onnx.ModelProto, change: Any, *layers: LayerEntry, target: str) -> str:
    """The error; the model must stay as it is."""
    change(model)
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ExportError) as caught:
        rewrite_for(model, manifest_of(*layers), target)
    assert model.SerializeToString(deterministic=True) == before
    return str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_that_is_computed_is_refused(target: str) -> None:
    entry = layer("a", 6, 3, 5)

    def rename(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[QUANTIZED_INPUTS.index("w2")] = "computed"

    error = refused(model_of(entry), rename, entry, target=target)
    assert error == "w2 of layer a (computed) is not an initializer"


def test_a_packed_size_that_contradicts_the_manifest_is_refused() -> None:
    entry, other = layer("a", 6, 3, 5), layer("a", 6, 3, 6)

    def pack(model: onnx.ModelProto) -> None:
        pack_int8(model.graph)()

    error = refused(model_of(entry), pack, other, target="portable")
    assert error == "a.int8.w1 has shape [23]; 108 int8 values of layer a need [27]"


def test_a_model_that_cannot_be_lowered_keeps_its_weights() -> None:
    entry = layer("a", 6, 3, 5)

    def add_mish(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Mish", ["a.y"], ["m"], name="mish"))

    assert "Mish (mish)" in refused(model_of(entry), add_mish, entry, target="tensorrt-8")
