"""Hostile files: none of their code runs, and they take no more memory than their size justifies."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted_files import Call, Storage, load_crafted, pickled, saved, tensor, zip_of
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints import unpickle
from acm_export.checkpoints.unpickle import load_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("where", ["model_state", "args", "key", "tensor"])
@pytest.mark.parametrize("function", ["os.system", "eval", "exec", "getattr", "import", "subprocess", "rebuild"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_that_a_file_names_is_called(where: str, function: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    hostile = {
        "os.system": Call(os.system, f"touch '{marker}'"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "getattr": Call(getattr, Path(marker), "touch"),
        "import": Call(__import__, "this_module_is_not_there"),
        "subprocess": Call(__import__("subprocess").check_output, ["touch", str(marker)]),
        "rebuild": Call(torch._utils._rebuild_tensor_v2, Call(os.system, f"touch '{marker}'"), 0, (1,), (1,)),
    }[function]
    places: dict[str, Any] = {
        "model_state": {"model_state": hostile},
        "args": {"model_state": {}, "args": hostile},
        "key": {"model_state": {}, "args": [hostile, {"x": hostile}]},
        "tensor": {"model_state": {"w": hostile}},
    }
    try:
        load_crafted(tmp_path, places[where], protocol)
    except CheckpointError:
        pass
    else:
        assert where in ("args", "key")
    assert not marker.exists()


@pytest.mark.parametrize("opcode", ["(S'touch MARKER'\nios\nsystem\n.", "cos\nsystem\n(S'touch MARKER'\ntR."])
def test_old_opcodes_do_not_run_code(opcode: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = zip_of(tmp_path / "old.pth", opcode.replace("MARKER", str(marker)).encode())
    with pytest.raises(CheckpointError):
        load_state(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 3), (4, 1)), (-1, (2,), (1,)), (0, (-2,), (1,)), (0, (2,), (-1,)),
        (0, (2, 3), (1,)), (0, (1 << 40,), (1,)), (1 << 62, (1,), (1,)), (0, (1 << 70,), (1,)),
        (0, (10**9,), (0,)), (0, (5, 5, 5), (0, 0, 1)), (0, (3, 4), (1, 1)), (0, (3, 3, 3), (1, 1, 1)),
        (0.5, (2,), (1,)), (0, ("2",), (1,)), (0, (2.0,), (1,)), (None, (2,), (1,)), (0, 3, 1),
    ],
)  # fmt: skip  # a table
def test_tensors_beyond_their_storage_are_refused(offset: Any, size: Any, stride: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_crafted(tmp_path, {"model_state": {"w": tensor(offset, size, stride)}})


def test_a_tensor_that_fits_its_crafted_storage_is_read(tmp_path: Path) -> None:
    assert load_crafted(tmp_path, {"model_state": {"w": tensor(0, (2, 3), (3, 1))}})[0]["w"].shape == (2, 3)


def test_expanded_views_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="contiguous"):
        load_state(saved(tmp_path, {"model_state": {"w": torch.ones(1).expand(1000)}}))


def test_many_names_for_one_storage_are_refused_with_both_sizes(tmp_path: Path) -> None:
    shared = torch.zeros(1000)
    with pytest.raises(CheckpointError, match=r"200000 bytes.* 4000") as refused:
        load_state(saved(tmp_path, {"model_state": {f"w{index}": shared for index in range(50)}}))
    assert "clone" in str(refused.value.hint)
    assert len(load_state(saved(tmp_path, {"model_state": {"a": shared, "tied": shared}}))[0]) == 2


@pytest.mark.parametrize("count", [5, 7, -6, 1 << 60, "x", None, float("nan"), float("inf")])
def test_a_storage_of_the_wrong_length_is_refused(count: Any, tmp_path: Path) -> None:
    crafted = tensor(0, (2,), (1,), count)
    with pytest.raises(CheckpointError):
        load_crafted(tmp_path, {"model_state": {"w": crafted}})


@pytest.mark.parametrize("pid", ["storage", 7, ("storage", torch.FloatStorage, "0"), ("module", 1, 2, 3, 4)])
def test_invalid_storage_references_are_refused(pid: Any, tmp_path: Path) -> None:
    storage = Storage(6)
    storage.pid = pid
    with pytest.raises(CheckpointError):
        load_crafted(tmp_path, {"model_state": {"w": storage}})


@pytest.mark.parametrize("key", ["1", "../../etc/passwd", "../data.pkl"])
def test_a_storage_that_is_not_in_the_file_is_refused(key: str, tmp_path: Path) -> None:
    crafted = Call(torch._utils._rebuild_tensor_v2, Storage(6, key), 0, (2,), (1,))
    with pytest.raises(CheckpointError):
        load_crafted(tmp_path, {"model_state": {"w": crafted}})


def test_a_pickled_state_cannot_change_a_tensor(tmp_path: Path) -> None:
    grow = (Call(torch._utils._rebuild_tensor_v2, Storage(0, "1"), 0, (0,), (1,)), 0, (1 << 20,), (1,))
    path = tmp_path / "grow.pth"
    empty = Call(torch._utils._rebuild_tensor_v2, Storage(0, "1"), 0, (0,), (1,), state=grow)
    zip_of(path, pickled({"model_state": {"w": empty}}), {"1": b""})
    try:
        state, _ = load_state(path)
    except CheckpointError:
        return
    assert state["w"].numel() == 0


def test_the_pickle_cannot_change_the_classes_in_it(tmp_path: Path) -> None:
    poke = pickle.PROTO + b"\x02" + b"ccollections\nOrderedDict\n" + b"N}X\x01\x00\x00\x00xK\x01s\x86b."
    with pytest.raises(CheckpointError):
        load_state(zip_of(tmp_path / "poke.pth", poke))
    assert not hasattr(collections.OrderedDict, "x")


@pytest.mark.parametrize(
    "content",
    [
        b"", b".", b"N.", b"\x80\x02", b"\x80\x02J\x01", b"\x80\x09N.", b"garbage", b"\x80\x02}q\x00.", b"0.", b"(.",
        b"\x80\x02G\x00", b"\x80\x02M\x01", b"I" + b"9" * 5000 + b"\n.", b"\x80\x05\x82\x01.", b"\x80\x05\x97.",
        b"\x80\x05\x96" + (1 << 55).to_bytes(8, "little") + b".", b"\x80\x05\x8e" + (1 << 55).to_bytes(8, "little"),
        b"\x80\x04\x95" + (1 << 55).to_bytes(8, "little") + b"N.", b"cos\nsys\x00tem\n.",
        b"\x80\x02]" + b"2" * 50 + b"h\x05.",
        b"V\xff\\ud8\n.", b"h\x07.", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
)  # fmt: skip  # a table
def test_a_broken_pickle_in_a_whole_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_state(zip_of(tmp_path / "broken.pth", content))


@given(data=st.data())
@examples(300)
def test_a_pickle_with_random_changes_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(pickled({"args": {"a": [1, 2.5, "x"]}, "model_state": {"w": tensor(0, (2, 3), (3, 1))}}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    path = zip_of(tmp_path_factory.getbasetemp() / "changed.pth", bytes(content), {"0": bytes(24)})
    try:
        state, _ = load_state(path)
    except CheckpointError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_args_that_contain_themselves_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop: list[Any] = []
    loop += [loop] * 10
    real, calls = unpickle._plain, list[int]()

    def counted(*args: Any) -> Any:
        calls.append(1)
        assert len(calls) < 100, "args that contain themselves are read again and again"
        return real(*args)

    monkeypatch.setattr(unpickle, "_plain", counted)
    load_state(saved(tmp_path, {"args": {"loop": loop}, "model_state": STATE}))
    assert calls
