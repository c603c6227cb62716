"""Checkpoints whose weights are split over several safetensors files, and indexes that contradict them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_vit

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.checkpoints.weights import INDEX, WEIGHTS, find_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


def shard(folder: Path) -> dict[str, str]:
    """Split the weights of a folder into two shards, as transformers does; returns the index's weight map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = list(tensors)
    parts = {FIRST: names[: len(names) // 2], SECOND: names[len(names) // 2 :]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    shards = {name: file for file, part in parts.items() for name in part}
    write_index(folder, shards)
    return shards


def write_index(folder: Path, shards: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}))


@pytest.fixture(params=["acm", "dense"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_checkpoint(tiny_vit() if request.param == "acm" else tiny_vit({}), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def sharded(whole: Path) -> Path:
    folder = whole.with_name("sharded")
    shutil.copytree(whole, folder)
    shard(folder)
    return folder


def test_shards_load_like_a_single_file(whole: Path, sharded: Path) -> None:
    a, b = load_checkpoint(whole).model.state_dict(), load_checkpoint(sharded).model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_shards_written_by_transformers_load(tmp_path: Path) -> None:
    model = tiny_vit({})
    model.save_pretrained(tmp_path / "dense", max_shard_size="8KB")
    assert len(find_weights(tmp_path / "dense").files) > 1
    state = load_checkpoint(tmp_path / "dense").model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_digest_changes_with_any_shard(sharded: Path) -> None:
    before = find_weights(sharded).sha256()
    tensors = load_file(sharded / SECOND)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, sharded / SECOND, metadata={"format": "pt"})
    assert find_weights(sharded).sha256() != before


@pytest.mark.parametrize("name", ["../out.safetensors", "/out.safetensors", "sub/out.safetensors", "..\\x.safetensors"])
def test_shards_outside_the_folder_are_refused(name: str, sharded: Path) -> None:
    shards = json.loads((sharded / INDEX).read_text())["weight_map"]
    shutil.copy(sharded / FIRST, sharded.parent / "out.safetensors")
    (sharded / "sub").mkdir()
    shutil.copy(sharded / FIRST, sharded / "sub" / "out.safetensors")
    write_index(sharded, {key: name if file == FIRST else file for key, file in shards.items()})
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors file in the same folder"):
        load_checkpoint(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "", 3, None, ["model.safetensors"], "a\0.safetensors"])
def test_shards_that_are_not_safetensors_files_are_refused(name: Any, sharded: Path) -> None:
    shards = json.loads((sharded / INDEX).read_text())["weight_map"]
    write_index(sharded, shards | {next(iter(shards)): name})
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors file in the same folder"):
        load_checkpoint(sharded)


def _missing_shard(folder: Path, _shards: dict[str, str]) -> None:
    (folder / SECOND).unlink()


def _truncated_shard(folder: Path, _shards: dict[str, str]) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[: len(content) // 2])


def _tensor_of_no_shard(folder: Path, shards: dict[str, str]) -> None:
    write_index(folder, shards | {"vit.extra": FIRST})


def _tensor_of_another_shard(folder: Path, shards: dict[str, str]) -> None:
    write_index(folder, shards | {next(iter(shards)): SECOND})


def _unlisted_tensor(folder: Path, shards: dict[str, str]) -> None:
    write_index(folder, dict(list(shards.items())[1:]))


def _tensor_of_two_shards(folder: Path, _shards: dict[str, str]) -> None:
    name, tensor = next(iter(load_file(folder / FIRST).items()))
    save_file(load_file(folder / SECOND) | {name: tensor}, folder / SECOND, metadata={"format": "pt"})


def _tensor_listed_twice(folder: Path, _shards: dict[str, str]) -> None:
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"a": "{FIRST}", "a": "{SECOND}", '))


def _tensor_left_out_everywhere(folder: Path, shards: dict[str, str]) -> None:
    name, *kept = [key for key, file in shards.items() if file == FIRST]
    tensors = load_file(folder / FIRST)
    save_file({key: tensors[key] for key in kept}, folder / FIRST, metadata={"format": "pt"})
    write_index(folder, {key: file for key, file in shards.items() if key != name})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing_shard, f"names the shard {SECOND}, which is not in"),
        (_truncated_shard, f"{SECOND} is truncated"),
        (_tensor_of_no_shard, f"lists vit.extra in {FIRST}, but no shard contains it"),
        (_tensor_of_another_shard, f"in {SECOND}, but it is in {FIRST}"),
        (_unlisted_tensor, f"which {INDEX} does not list"),
        (_tensor_of_two_shards, f"is in two shards: {FIRST} and {SECOND}"),
        (_tensor_listed_twice, "'a' is listed twice"),
        (_tensor_left_out_everywhere, "contradicts config.json: it lacks"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(
    damage: Callable[[Path, dict[str, str]], None], message: str, sharded: Path
) -> None:
    damage(sharded, json.loads((sharded / INDEX).read_text())["weight_map"])
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(sharded)
    assert message in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", "is not a JSON index"),
        ("[" * 100_000, "is not a JSON index"),
        ("[]", "has no object 'metadata'"),
        ('{"metadata": {}, "weight_map": []}', "has no object 'weight_map'"),
        ('{"metadata": {}, "weight_map": {}}', "lists no tensors"),
    ],
)
def test_an_invalid_index_is_refused(content: str, message: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(sharded)
