"""Tokenizers, processors and names of classes travel: into the ACM folder, beside the file, and into the manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny_families import acm_model, dense_model
from tiny_tokenizers import SPECIAL, word_tokenizer, write_tokenizer, write_vocabulary
from user_data import LETTERS, write_wav

from acm_export.base.errors import AcmWarning, ModelFileError, OutputError, UsageError
from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data
from acm_export.exporter import export
from acm_export.onnx_file.file_data import open_file_data
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.timing import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.data.dataset import Dataset
    from acm_export.onnx_file.manifest import Manifest

LINES = "a b c\nd\ne d c b a\na a\n" * 4
SETTINGS = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.25]}
MODELS = {"text": "bert sequences", "photos": "vit", "speech": "wav2vec2 ctc, XLS-R"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For text, photos and speech: a dense folder with its processor, and the ACM folder that acmize would write."""
    root = tmp_path_factory.mktemp("travel")
    for kind, name in MODELS.items():
        torch.manual_seed(0)
        dense = root / kind / "dense"
        model = dense_model(name)
        if kind != "speech":
            model.config.id2label = {i: f"class {i}" for i in range(model.config.num_labels)}
        model.save_pretrained(dense)
        if kind == "text":
            write_tokenizer(dense, model_max_length=6)
        elif kind == "photos":
            (dense / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
        else:
            (dense / "vocab.json").write_text(LETTERS)
            (dense / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
        acm = acm_model(name, "ffn")
        acm.config.id2label = model.config.id2label
        save_checkpoint(acm, root / kind / "acm", processor_from=dense)
        (root / kind / "out").mkdir()
        export(root / kind / "acm", output=root / kind / "out" / "m.onnx", verify=False)
    return root


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


def manifest(path: Path) -> Manifest:
    return read_manifest(read_model(path), path)


def make_data(kind: str, folder: Path) -> Path:
    if kind == "text":
        (folder / "sentences.txt").write_text(LINES)
        return folder / "sentences.txt"
    for i in range(12):
        if kind == "photos":
            (folder / f"class {i % 2}").mkdir(exist_ok=True)
            Image.new("L", (10, 10), 20 * i).save(folder / f"class {i % 2}" / f"{i}.png")
        else:
            write_wav(folder / f"{i}.wav", (9000 * np.sin(np.arange(300 + 60 * i))).astype("<i2"), rate=8000)
    return folder


def run(verb: str, folder: Path, data: Path, output: Path) -> Any:
    model = folder / ("dense" if verb == "acmize" else "out/m.onnx")
    options: dict[str, tuple[object, ...]] = {
        "acmize": ("-o", output / "acm", "--learners", 3, "--steps", "1,1,1", "--batch", 4, "--task", "distil"),
        "calibrate": ("-o", output / "c.onnx", "--solver", "uniform", "--batch", 4),
        "quantize": ("-o", output / "q.onnx", "--samples", 8),
        "verify": ("--checkpoint", folder / "acm"),
        "latency": ("--runs", 3, "--baseline", folder / "out" / "m.onnx"),
        "build-engine": ("-o", output / "m.plan", "--dry-run"),
    }
    return CliRunner().invoke(main, list(map(str, [verb, model, "--data", data, *options[verb]])))


@pytest.mark.parametrize("verb", ["acmize", "calibrate", "quantize", "verify", "latency", "build-engine"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_verb_takes_text_photos_and_speech(models: Path, tmp_path: Path, kind: str, verb: str) -> None:
    (tmp_path / "data").mkdir()
    result = run(verb, models / kind, make_data(kind, tmp_path / "data"), tmp_path)
    assert result.exit_code == 0, result.stderr
    if kind == "text":
        assert "4 of the 16 texts" in result.stderr or verb == "verify", "five words and two special tokens exceed six"
    if verb == "acmize":
        written = {path.name for path in (tmp_path / "acm").iterdir()}
        assert {path.name for path in (models / kind / "dense").iterdir()} <= written


def test_the_files_are_copied_and_named_with_their_digests(models: Path) -> None:
    for kind, files in (
        ("text", {"tokenizer.json", "tokenizer_config.json"}),
        ("photos", {"preprocessor_config.json"}),
        ("speech", {"preprocessor_config.json", "vocab.json"}),
    ):
        out, dense = models / kind / "out", models / kind / "dense"
        record = manifest(out / "m.onnx").processor
        assert record is not None
        assert record.folder == "m.processor"
        assert record.files == {name: hashlib.sha256((dense / name).read_bytes()).hexdigest() for name in files}
        assert {path.name for path in (out / "m.processor").iterdir()} == files
    text, speech = (manifest(models / kind / "out" / "m.onnx").processor for kind in ("text", "speech"))
    assert text is not None
    assert speech is not None
    assert (text.labels, text.lengths) == (("class 0", "class 1"), {"tokens": (1, 40)})
    assert speech.labels == (), "LABEL_0 is not a name"


def opened(path: Path, data: Path, **options: Any) -> Dataset:
    inputs = [GraphInput(n, ("batch", "tokens"), np.dtype(np.int64)) for n in ("input_ids", "attention_mask")]
    return open_file_data(data, inputs, path=path, manifest=manifest(path), **options)


@pytest.fixture
def device(models: Path, tmp_path: Path) -> Path:
    """The text model's file, alone in a folder, and a sentence."""
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "s.txt").write_text("b a\n")
    shutil.copy(models / "text" / "out" / "m.onnx", tmp_path / "device" / "calibrated.onnx")
    return tmp_path / "device"


@pytest.mark.parametrize("place", ["m.processor", ".", "acm"])
def test_the_processor_is_found_beside_the_file(models: Path, device: Path, place: str) -> None:
    shutil.copytree(models / "text" / "out" / "m.processor", device / place, dirs_exist_ok=True)
    samples = opened(device / "calibrated.onnx", device / "s.txt")
    assert samples[0]["input_ids"].tolist() == [2, 6, 5, 3]


def test_the_folder_with_the_manifests_digests_is_preferred(models: Path, device: Path) -> None:
    write_tokenizer(device, word_tokenizer(tuple(reversed(SPECIAL))))
    shutil.copytree(models / "text" / "out" / "m.processor", device / "acm")
    assert opened(device / "calibrated.onnx", device / "s.txt")[0]["input_ids"].tolist() == [2, 6, 5, 3]


def test_other_digests_are_a_warning(device: Path) -> None:
    write_tokenizer(device, word_tokenizer(tuple(reversed(SPECIAL))))
    with pytest.warns(AcmWarning, match=r"tokenizer\.json, tokenizer_config\.json in .*device differ from what the"):
        assert opened(device / "calibrated.onnx", device / "s.txt")[0]["input_ids"].tolist() == [2, 6, 5, 1]


def test_an_option_comes_first_and_an_array_needs_none(models: Path, device: Path) -> None:
    samples = opened(device / "calibrated.onnx", device / "s.txt", processor=models / "text" / "dense")
    assert samples[0]["input_ids"].tolist() == [2, 6, 5, 3]
    np.savez(device / "d.npz", input_ids=np.array([[1, 2]]))
    assert opened(device / "calibrated.onnx", device / "d.npz")[0]["input_ids"].tolist() == [1, 2]


def test_a_processor_that_is_nowhere_is_named(device: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no tokenizer in .*device \(tokenizer\.json") as raised:
        opened(device / "calibrated.onnx", device / "s.txt")
    assert "--processor" in str(raised.value.hint)


def test_a_file_keeps_the_models_bounds_and_classes(device: Path, models: Path) -> None:
    shutil.copytree(models / "text" / "out" / "m.processor", device / "m.processor")
    (device / "t.csv").write_text("text,label\na,class 1\nb,class 0\n")
    samples = opened(device / "calibrated.onnx", device / "t.csv")
    assert [int(samples[i]["labels"]) for i in range(2)] == [1, 0]
    np.savez(device / "long.npz", input_ids=np.ones((1, 41), np.int64))
    with pytest.raises(UsageError, match="input_ids has 41 tokens; the model takes 1 to 40"):
        opened(device / "calibrated.onnx", device / "long.npz")[0]


def test_folders_of_images_are_numbered_as_the_models_classes(models: Path, tmp_path: Path) -> None:
    image = GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype(np.float32))
    for name in ("class 3", "class 1"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    acm = models / "photos" / "acm"
    assert open_data(tmp_path, [image], model_folder=acm).labels == pytest.approx([1, 3])
    (tmp_path / "class 3").rename(tmp_path / "other")
    assert open_data(tmp_path, [image], model_folder=acm).labels == pytest.approx([0, 1])


def test_an_older_tokenizer_is_exported_as_tokenizer_json(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "text" / "acm", tmp_path / "acm")
    for path in (tmp_path / "acm").glob("tokenizer*"):
        path.unlink()
    write_vocabulary(tmp_path / "acm")
    result = export(tmp_path / "acm", output=tmp_path / "m.onnx", verify=False)
    assert result.processor_path == tmp_path / "m.processor"
    assert {"tokenizer.json", "vocab.txt"} <= {path.name for path in (tmp_path / "m.processor").iterdir()}
    (tmp_path / "s.txt").write_text("b a\n")
    assert opened(tmp_path / "m.onnx", tmp_path / "s.txt")[0]["input_ids"].tolist() == [2, 6, 5, 3]


def test_an_export_replaces_its_processor_and_nothing_else(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m.processor"
    folder.mkdir()
    (folder / "vocab.txt").write_text("old")
    export(models / "text" / "acm", output=tmp_path / "m.onnx", verify=False)
    assert sorted(path.name for path in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    (folder / "notes.md").write_text("mine")
    before = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(OutputError, match=r"m\.processor, .*, contains other files: notes\.md"):
        export(models / "photos" / "acm", output=tmp_path / "m.onnx", verify=False)
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert (folder / "notes.md").exists()


def test_an_export_lists_its_processor(models: Path, tmp_path: Path) -> None:
    args = ["export", str(models / "text" / "acm"), "-o", str(tmp_path / "m.onnx"), "--no-verify"]
    assert "m.processor" in CliRunner().invoke(main, args).stdout
    content = json.loads(CliRunner().invoke(main, [*args, "--json"]).stdout)
    assert content["processor"] == str(tmp_path / "m.processor")
    assert content["manifest"]["processor"]["labels"] == ["class 0", "class 1"]
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.onnx")]).stdout
    assert "processor m.processor: tokenizer.json, tokenizer_config.json" in shown


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../secrets"},
        {"folder": ""},
        {"files": {"../tokenizer.json": "0"}},
        {"labels": [1]},
        {"lengths": {"tokens": [2, 1]}},
        {"lengths": {"tokens": 3}},
        {"more": 1},
    ],
)
def test_a_broken_record_is_refused(models: Path, change: dict[str, Any]) -> None:
    model = read_model(models / "text" / "out" / "m.onnx")
    content = json.loads(model.metadata_props[0].value)
    content["processor"] |= change
    model.metadata_props[0].value = json.dumps(content)
    with pytest.raises(ModelFileError, match=f"processor.{next(iter(change))}"):
        read_manifest(model, "m.onnx")


def test_settings_of_a_processor_of_several_inputs_are_read(models: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    make_data("photos", tmp_path / "photos")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SETTINGS}))
    image = GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype(np.float32))
    expected = open_data(tmp_path / "photos", [image], model_folder=models / "photos" / "dense")
    found = open_data(tmp_path / "photos", [image], model_folder=tmp_path)
    assert np.array_equal(found[5]["pixel_values"], expected[5]["pixel_values"])


def test_text_of_a_function_is_tokenised_by_the_verbs(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("mine_for_text")
    make: Callable[[], Any] = lambda: [{"sentence": line, "label": 1} for line in LINES.split("\n") if line]  # noqa: E731
    made.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine_for_text", made)
    result = run("calibrate", models / "text", "mine_for_text:make", tmp_path)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.stderr
    assert "sample 2 of mine_for_text:make was truncated to 6 tokens" in result.stderr
