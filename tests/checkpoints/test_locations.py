"""Where checkpoints are found: folders of sentence-transformers, and names on the Hub through a fake client."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import torch
from tiny_architectures import tiny_model

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "sentence_transformers.models.Transformer"


def sentence_folder(folder: Path, path: str, **changes: Any) -> Path:
    tiny_model("mpnet").save_pretrained(folder / path)
    modules = [{"idx": 0, "name": "0", "path": path, "type": MODULE} | changes]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_the_transformer_of_a_sentence_transformers_folder_is_read(path: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "minilm", path)
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.model).__name__ == "MPNetModel"
    assert checkpoint.path == folder / path
    assert checkpoint.name == "minilm"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a list of modules"),
        ("[3]", "is not a list of modules"),
        ("[]", "lists 0 transformers"),
        (json.dumps([{"type": MODULE, "path": "../other"}]), "inside the folder"),
        (json.dumps([{"type": MODULE, "path": "/other"}]), "inside the folder"),
    ],
)
def test_a_broken_list_of_modules_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_checkpoint(tmp_path)
    assert refused.value.hint


class _Hub:
    """A folder instead of the Hub."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files, self.patterns = folder, files, [""]

    def list_repo_files(self, name: str) -> list[str]:
        if name != "org/tiny":
            raise OSError("404 Client Error")
        return self.files

    def snapshot_download(self, name: str, *, allow_patterns: list[str]) -> str:
        assert name == "org/tiny"
        self.patterns = allow_patterns
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Hub:
    tiny_model("roberta").save_pretrained(tmp_path / "snapshot")
    found = _Hub(tmp_path / "snapshot", os.listdir(tmp_path / "snapshot"))  # noqa: PTH208  names
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return found


def test_a_name_on_the_hub_is_downloaded_without_code_and_other_formats(hub: _Hub) -> None:
    checkpoint = load_checkpoint("org/tiny")
    assert checkpoint.name == "org/tiny"
    assert "*.safetensors" in hub.patterns
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in hub.patterns)
    hub.files = ["config.json", "pytorch_model.bin"]
    load_checkpoint("org/tiny")
    assert "pytorch_model*.bin" in hub.patterns


def test_a_model_that_the_hub_does_not_have_gets_the_command(hub: _Hub) -> None:
    with pytest.raises(UsageError, match=r"cannot be downloaded .* 404 Client Error") as refused:
        load_checkpoint("org/typo")
    assert "hf download org/typo --local-dir typo" in str(refused.value.hint)
    assert hub.patterns == [""]


def test_an_earlier_download_is_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model("roberta").save_pretrained(tmp_path / "model")
    snapshot = tmp_path / "cache" / "models--org--tiny" / "snapshots" / "abc"
    shutil.copytree(tmp_path / "model", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    loaded = load_checkpoint("org/tiny")
    assert loaded.path.resolve() == snapshot.resolve()
    expected = tiny_model("roberta").state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    assert all(value.shape == expected[name].shape for name, value in loaded.model.state_dict().items())
    assert not torch.equal(next(loaded.model.parameters()), torch.zeros(1))
