"""One grammar of ``--data``: what trains a model also calibrates, verifies and times it, and errors are the same."""

from __future__ import annotations

import json
import re
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny_families import acm_model, dense_model
from user_data import LETTERS, write_wav

from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.timing import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

IMAGES, TOKENS, SOUNDS = "vit", "bert sequences", "wav2vec2 ctc, XLS-R"
FUNCTION = "mine_for_verbs:make"
VERBS = ("acmize", "calibrate", "verify", "latency")
SETTINGS = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.25]}
_ERROR = re.compile(r"^error: .*?(?=^hint:|\Z)", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each kind of model a folder with a dense checkpoint, one with ACM layers, and its ONNX file."""
    root = tmp_path_factory.mktemp("models")
    for name in (IMAGES, TOKENS, SOUNDS):
        torch.manual_seed(0)
        folder = root / name
        dense_model(name).save_pretrained(folder / "dense")
        save_checkpoint(acm_model(name, "ffn"), folder / "acm", source={})
        export(folder / "acm", output=folder / "m.onnx", verify=False)
        for place in (folder, folder / "dense", folder / "acm"):
            if name == IMAGES:
                (place / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
            if name == SOUNDS:
                (place / "vocab.json").write_text(LETTERS)
    return root


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


def run(verb: str, folder: Path, data: object, output: Path) -> tuple[int, str]:
    """Exit code, and what the verb wrote to stderr."""
    model = str(folder / ("dense" if verb == "acmize" else "m.onnx"))
    options: dict[str, tuple[object, ...]] = {
        "acmize": ("-o", output / "acm", "--learners", 3, "--steps", "1,1,1", "--batch", 4),
        "calibrate": ("-o", output / "c.onnx", "--solver", "uniform", "--batch", 4),
        "verify": ("--checkpoint", folder / "acm"),
        "latency": ("--runs", 3, "--batch", 2),
    }
    args = [verb, model, "--data", data, *options[verb]]
    result = CliRunner().invoke(main, list(map(str, args)))
    return result.exit_code, result.stderr


def module(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]) -> None:
    made = types.ModuleType("mine_for_verbs")
    made.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine_for_verbs", made)


def samples(name: str, count: int = 12) -> Iterable[dict[str, Any]]:
    """Samples of different lengths, with labels, as a function of a user's yields them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        if name == IMAGES:
            yield {"pixel_values": rng.standard_normal((1, 8, 8)).astype(np.float32), "labels": i % 5}
        elif name == TOKENS:
            yield {"input_ids": rng.integers(1, 20, 3 + i % 4), "labels": i % 2}
        else:
            yield {"input_values": np.sin(np.arange(300.0 + 20 * i)), "labels": [1, 2] if i % 2 else [3]}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [IMAGES, TOKENS, pytest.param(SOUNDS, marks=pytest.mark.slow)])
def test_the_function_that_trains_a_model_serves_every_verb(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    module(monkeypatch, lambda: samples(name))
    code, stderr = run(verb, models / name, FUNCTION, tmp_path)
    assert code == 0, stderr


def sounds(folder: Path) -> Path:
    for i in range(12):
        write_wav(folder / f"{i}.wav", (9000 * np.sin(np.arange(300 + 20 * i))).astype("<i2"))
        (folder / f"{i}.txt").write_text("ab c" if i % 2 else "B")
    return folder


def pictures(folder: Path) -> Path:
    for i in range(12):
        (folder / str(i % 2)).mkdir(exist_ok=True)
        Image.new("L", (10, 10), 20 * i).save(folder / str(i % 2) / f"{i}.png")
    return folder


def arrays(folder: Path) -> Path:
    rows = list(samples(IMAGES))
    np.savez(folder / "d.npz", **{key: np.stack([row[key] for row in rows]) for key in ("pixel_values", "labels")})
    return folder / "d.npz"


def saved(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": row["input_ids"].tolist(), "label": row["labels"]} for row in samples(TOKENS)]
    datasets.Dataset.from_list(rows).with_format("numpy").save_to_disk(folder / "rows")
    return folder / "rows"


def saved_sounds(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("soundfile")
    paths = [str(sounds(folder) / f"{i}.wav") for i in range(12)]
    rows = datasets.Dataset.from_dict({"audio": paths, "text": ["ab c"] * 12})
    rows.cast_column("audio", datasets.Audio()).save_to_disk(folder / "rows")
    return folder / "rows"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        (SOUNDS, sounds),
        (IMAGES, pictures),
        (IMAGES, arrays),
        (TOKENS, saved),
        pytest.param(SOUNDS, saved_sounds, marks=pytest.mark.slow),
    ],
)
def test_files_and_folders_serve_every_verb(
    models: Path, tmp_path: Path, name: str, make: Callable[[Path], Path], verb: str
) -> None:
    (tmp_path / "data").mkdir()
    code, stderr = run(verb, models / name, make(tmp_path / "data"), tmp_path)
    assert code == 0, stderr


def _fail() -> Any:
    yield {"input_ids": [1, 2]}
    raise KeyError("x")


def _images(value: Any) -> Callable[[], Any]:
    return lambda: [{"pixel_values": value, "labels": 1}] * 12


def _tokens(**entries: Any) -> Callable[[], Any]:
    return lambda: [entries] * 12


WRONG_FUNCTIONS: list[tuple[str, Callable[[], Any], str]] = [
    (TOKENS, _fail, f"{FUNCTION} failed at sample 1: KeyError: 'x'"),
    (TOKENS, lambda: 3, f"{FUNCTION} returned int; expected samples"),
    (TOKENS, list, f"{FUNCTION} has no samples"),
    (TOKENS, lambda: [3] * 12, f"sample 0 of {FUNCTION} is int; expected a mapping"),
    (TOKENS, _tokens(ids=[1], labels=0), f"sample 0 of {FUNCTION} has ids, labels; the model takes input_ids"),
    (TOKENS, _tokens(input_ids=[1.0], labels=0), "input_ids is float64 [1]; the model takes int64 [tokens]"),
    (TOKENS, _tokens(input_ids=[[1, 2]], labels=0), "input_ids is int64 [1, 2]; the model takes int64 [tokens]"),
    (
        TOKENS,
        _tokens(input_ids=[1, 20], labels=0),
        f"sample 0 of {FUNCTION}: input_ids contains 20; the model takes 0 to",
    ),
    (TOKENS, _tokens(input_ids=[1, -1], labels=0), "input_ids contains -1; the model takes 0 to 19"),
    (TOKENS, _tokens(input_ids=[1], token_type_ids=[2], labels=0), "token_type_ids contains 2; the model takes 0 to 1"),
    (TOKENS, _tokens(input_ids=[1], attention_mask=[0], labels=0), "attention_mask masks the whole sample"),
    (TOKENS, _tokens(input_ids=[1], attention_mask=[2], labels=0), "attention_mask contains 2; the model takes 0 to 1"),
    (TOKENS, lambda: iter([[1]]), f"sample 0 of {FUNCTION} is list"),
    (TOKENS, _tokens(input_ids=["a"], labels=0), "input_ids is <U1 [1]; the model takes int64"),
    (IMAGES, _images(np.ones((1, 8, 7))), "pixel_values is float64 [1, 8, 7]; the model takes float32 [1, 8, 8]"),
    (IMAGES, _images(np.ones((2, 1, 8, 8))), "pixel_values is float64 [2, 1, 8, 8]; the model takes float32 [1, 8, 8]"),
    (IMAGES, _images(np.full((1, 8, 8), np.nan)), f"sample 0 of {FUNCTION}: pixel_values contains NaN or infinity"),
    (IMAGES, _images(np.full((1, 8, 8), 255, np.uint8)), "pixel_values is uint8 [1, 8, 8] with values from 255 to 255"),
    (IMAGES, _images(np.full((1, 8, 8), 200.5)), "which are raw pixels; the model takes normalised float32"),
]


@pytest.mark.parametrize(("name", "make", "message"), WRONG_FUNCTIONS, ids=range(len(WRONG_FUNCTIONS)))
def test_mistakes_of_a_function_read_the_same_in_every_verb(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[], Any], message: str
) -> None:
    module(monkeypatch, make)
    assert message in error_of_all_verbs(models / name, FUNCTION, tmp_path)


def error_of_all_verbs(folder: Path, data: object, output: Path) -> str:
    """The error, with its hint, that every verb ends with; nothing is written."""
    errors = set()
    for verb in VERBS:
        code, stderr = run(verb, folder, data, output)
        assert code == 2, (verb, stderr)
        assert "Traceback" not in stderr
        found = stderr[stderr.index("error: ") :]
        errors.add(" ".join(found.split()))
    assert len(errors) == 1, errors
    assert not (output / "acm").exists()
    assert not (output / "c.onnx").exists()
    return errors.pop()


def _write(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder if name.endswith((".png", ".txt")) else folder / name

    return write


def _broken_sound(folder: Path) -> Path:
    sounds(folder)
    (folder / "0.wav").write_bytes(b"RIFF")
    return folder


def _broken_picture(folder: Path) -> Path:
    pictures(folder)
    (folder / "0" / "0.png").write_bytes(b"no image")
    return folder


def _broken_dataset(folder: Path) -> Path:
    path = saved(folder)
    next(path.glob("*.arrow")).write_bytes(b"no table")
    return path


def _splits(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"input_ids": [[1]]})
    datasets.DatasetDict({"test": one, "train": one}).save_to_disk(folder / "both")
    return folder / "both"


def _npz(**content: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "d.npz", **content)
        return folder / "d.npz"

    return write


PIXELS = np.zeros((12, 1, 8, 8), np.float32)
WRONG_FILES: list[tuple[str, Callable[[Path], Any], str]] = [
    (IMAGES, lambda folder: folder / "none.npz", "none.npz hint: --data takes an .npz file, a text file (.txt, "),
    (IMAGES, lambda _: "no_such_module:make", "cannot import no_such_module:make: ModuleNotFoundError"),
    (IMAGES, lambda _: "a b:make", "'a b:make' is not module:function"),
    (IMAGES, _write("x.npy", b"\x93NUMPY"), "x.npy is a NumPy array (.npy); --data takes an .npz file"),
    (IMAGES, _npz(pixels=PIXELS), "d.npz has pixels; the model takes pixel_values"),
    (IMAGES, _npz(pixel_values=PIXELS[:0]), "d.npz has no samples"),
    (IMAGES, _npz(pixel_values=PIXELS, labels=np.zeros(3, int)), "d.npz: the arrays have different lengths"),
    (IMAGES, _npz(pixel_values=PIXELS + 100, labels=np.zeros(12, int)), "from 100 to 100, which are raw pixels"),
    (IMAGES, _write("a.txt", b""), "has no data that can be read: no images (.bmp, "),
    (IMAGES, _broken_picture, "cannot read the image"),
    (SOUNDS, _broken_sound, "0.wav as a .wav file"),
    (TOKENS, _broken_dataset, "cannot read the dataset"),
    (TOKENS, _splits, "both has the splits test, train; expected a single split hint: name one"),
]


@pytest.mark.parametrize(("name", "make", "message"), WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_mistakes_in_files_read_the_same_in_every_verb(
    models: Path, tmp_path: Path, name: str, make: Callable[[Path], Any], message: str
) -> None:
    (tmp_path / "data").mkdir()
    assert message in error_of_all_verbs(models / name, make(tmp_path / "data"), tmp_path)


def test_a_batch_instead_of_a_sample_is_refused_with_a_hint(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(monkeypatch, lambda: iter([{"pixel_values": PIXELS, "labels": np.zeros(12, int)}]))
    code, stderr = run("calibrate", models / IMAGES, FUNCTION, tmp_path)
    assert code == 2
    assert "samples have no batch axis: give one mapping per sample" in " ".join(stderr.split())


def test_raw_pixels_are_accepted_if_the_processor_keeps_them(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "preprocessor_config.json").write_text(
        '{"do_resize": false, "do_rescale": false, "do_normalize": false}'
    )
    module(monkeypatch, _images(np.full((1, 8, 8), 200.5)))
    args = ["verify", models / IMAGES / "m.onnx", "--checkpoint", models / IMAGES / "acm", "--data", FUNCTION]
    result = CliRunner().invoke(main, [*map(str, args), "--processor", str(tmp_path / "raw")])
    assert "raw pixels" not in result.stderr
