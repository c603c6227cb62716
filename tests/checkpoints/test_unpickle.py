"""Files of the authors' code: supported content is read, damaged files are refused."""

from __future__ import annotations

import collections
import enum
import os
import sys
import types
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from crafted_files import pickled, saved, zip_of

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.checkpoints.unpickle import load_state

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_tensors_of_every_dtype_load_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = (torch.randn(3, 4) * 10).to(dtype)
    state, args = load_state(saved(tmp_path, {"model_state": {"w": values}}))
    assert args == {}
    assert state["w"].dtype == dtype
    assert torch.equal(state["w"], values)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_that_torch_writes_is_read(protocol: int, tmp_path: Path) -> None:
    content = {"model_state": collections.OrderedDict(STATE), "final_score": 0.5}
    state, _ = load_state(saved(tmp_path, content, pickle_protocol=protocol))
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_views_shared_storages_parameters_and_empty_tensors_are_read(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    content = {
        "view": base[1:, 1:3],
        "transposed": base.T,
        "scalar": base[2, 3],
        "empty": torch.zeros(0, 4),
        "strided": base[:, ::2],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "one": base[:1].expand(1, 4),
    }
    state, _ = load_state(saved(tmp_path, {"model_state": content}))
    for name, value in content.items():
        assert torch.equal(state[name], value), name


def test_the_state_of_a_module_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state, _ = load_state(saved(tmp_path, {"model_state": module.state_dict()}))
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_config_of_a_missing_library_gives_its_plain_values(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = types.ModuleType("a_library_of_the_authors")
    exec(  # noqa: S102
        "import enum\n"
        "class Config:\n    pass\n"
        "class Node:\n    pass\n"
        "class Items(dict):\n    pass\n"
        "class Names(list):\n    pass\n"
        "class Kind(enum.Enum):\n    ACM = 'acm'\n",
        vars(library),
    )
    for name in ("Config", "Node", "Items", "Names", "Kind"):
        getattr(library, name).__module__ = library.__name__
    monkeypatch.setitem(sys.modules, library.__name__, library)
    heads, args, model_args = library.Node(), library.Config(), library.Config()
    heads.__dict__.update(_val=3, _parent=args)
    model_args.__dict__["_content"] = {"num_heads": heads}
    args.__dict__["_content"] = {"model_args": model_args, "path": "x", "lr": 0.1, "kind": library.Kind.ACM}
    args.__dict__["_content"] |= {"items": library.Items(a=1), "names": library.Names([1, 2])}
    path = saved(tmp_path, {"args": args, "model_state": STATE}, pickle_protocol=protocol)
    monkeypatch.delitem(sys.modules, library.__name__)
    state, plain = load_state(path)
    assert plain["model_args"] == {"num_heads": 3}
    assert (plain["path"], plain["lr"]) == ("x", 0.1)
    assert torch.equal(state["a.weight"], STATE["a.weight"])
    assert library.__name__ not in sys.modules


class Kind(enum.Enum):
    ACM = "acm"


def test_numpy_scalars_and_enums_beside_the_weights_are_inert(tmp_path: Path) -> None:
    content = {"model_state": STATE, "final_score": (torch.ones(1).numpy()[0], Kind.ACM), "args": {"num_heads": 3}}
    assert load_state(saved(tmp_path, content))[1] == {"num_heads": 3}


def test_missing_empty_random_and_truncated_files_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file") as refused:
        load_state(tmp_path / "missing.pth")
    assert refused.value.hint
    with pytest.raises(CheckpointError, match="is a folder") as refused:
        load_state(tmp_path)
    assert ".pth" in str(refused.value.hint)
    whole = saved(tmp_path, {"model_state": STATE}).read_bytes()
    for name, content, hint in [
        ("empty", b"", "save it again"),
        ("random", b"r" + os.urandom(5000), "safetensors"),
        ("text", b"a,b\n1,2\n", "safetensors"),
        ("half", whole[: len(whole) // 2], "truncated"),
        ("no_end", whole[:-30], "truncated"),
        ("zip_start", b"PK\x03\x04", "truncated"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name) as refused:
            load_state(tmp_path / name)
        assert hint in str(refused.value.hint)


def test_a_changed_byte_in_a_storage_is_detected(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model_state": {"w": torch.full((64,), 3.0)}})
    content = path.read_bytes()
    at = content.index(torch.full((64,), 3.0).numpy().tobytes())
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    with pytest.raises(CheckpointError):
        load_state(path)


def test_compressed_entries_files_without_a_pickle_and_the_old_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="compressed"):
        load_state(zip_of(tmp_path / "c.pth", pickled({"model_state": {}}), compress_type=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("archive/other", b"")
    with pytest.raises(CheckpointError, match="is a zip archive, not a PyTorch checkpoint"):
        load_state(tmp_path / "none.pth")
    with pytest.raises(CheckpointError) as refused:
        load_state(saved(tmp_path, {"model_state": STATE}, _use_new_zipfile_serialization=False))
    assert "before 1.6" in str(refused.value.hint)


def test_files_of_big_endian_machines_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "big.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"model_state": {}}))
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        load_state(tmp_path / "big.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "list"),
        ({}, "nothing"),
        ({"state_dict": {}, "epoch": 3}, "state_dict, epoch"),
        ({"model_state": [1]}, "model_state"),
        ({"model_state": {"w": 3, "v": torch.ones(1)}}, "not tensors: w"),
        ({"model_state": {"w": torch.ones(2, dtype=torch.complex64)}}, "storage"),
        ({"model_state": torch.ones(3)}, "model_state"),
        (torch.ones(3), "Tensor"),
    ],
)
def test_other_content_is_refused_and_named(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_state(saved(tmp_path, content))


def test_a_bare_state_dict_is_refused_with_the_command_to_save_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found: w0, w1, w2, w3, w4 and 45 more$") as refused:
        load_state(saved(tmp_path, {f"w{index}": torch.ones(1) for index in range(50)}))
    assert ".safetensors" in str(refused.value.hint)
