"""External data of other tools, which give it the same name for every model and rewrite it in place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from calibration_files import calibrated, write_images
from exported_files import images, names, session
from quantized_files import quantize_file
from tiny_models import tiny_vit

from acm_export.exporter import export
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.model_file import data_files, read_model, write_model
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = "model.onnx.data"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    torch.manual_seed(0)
    export(tiny_vit(), {"pixel_values": images(2)}, folder / "m.onnx", verify=False)
    write_images(folder / "d.npz", 32)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "calibrated.onnx")
    quantize_file(folder / "calibrated.onnx", folder / "int8.onnx", {"pixel_values": images(8)})
    return folder


def saved_by_a_tool(source: Path, folder: Path, *, single: bool = True) -> Path:
    """``model.onnx`` with its large weights in ``model.onnx.data``, or in one file for each."""
    folder.mkdir()
    external = {"save_as_external_data": True, "all_tensors_to_one_file": single, "size_threshold": 256}
    onnx.save(onnx.load(source), folder / "model.onnx", location=DATA if single else None, **external)
    return folder / "model.onnx"


def run(path: Path) -> Any:
    return session(path).run(None, {"pixel_values": images(3).numpy()})[0]


def adopt(source: Path, original: Path, output: Path) -> None:
    inspect(source, adopt=original / "calibrated.onnx", output=output)


def calibrate(source: Path, original: Path, output: Path) -> None:
    calibrated(source, original / "d.npz", output)


def to_portable(source: Path, _: Path, output: Path) -> None:
    retarget(source, output, target="portable")


def same_budget(source: Path, _: Path, output: Path) -> None:
    set_budget(source, 0.6, output=output)


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *((verb, "calibrated") for verb in (adopt, calibrate, to_portable, same_budget)),
        *((verb, "int8") for verb in (to_portable, same_budget)),
    ],
)
def test_a_written_file_has_its_own_copy_of_the_weights(
    verb: Callable[[Path, Path, Path], None], name: str, original: Path, tmp_path: Path
) -> None:
    """Not the file of that name beside it, which belongs to another model, and not a link to the tool's file."""
    source = saved_by_a_tool(original / f"{name}.onnx", tmp_path / "a")
    verb(original / f"{name}.onnx", original, tmp_path / "expected.onnx")
    expected = run(tmp_path / "expected.onnx")
    (tmp_path / "b").mkdir()
    foreign = tmp_path / "b" / DATA
    foreign.write_bytes(b"\1" * (source.parent / DATA).stat().st_size)
    verb(source, original, tmp_path / "b" / "fixed.onnx")
    np.testing.assert_array_equal(run(tmp_path / "b" / "fixed.onnx"), expected)
    assert set(foreign.read_bytes()) == {1}
    verb(source, original, source.with_name("free.onnx"))
    with (source.parent / DATA).open("r+b") as data:  # in place, as the tool writes its next model
        data.write(b"\1" * foreign.stat().st_size)
    np.testing.assert_array_equal(run(source.with_name("free.onnx")), expected)


def test_the_copy_has_the_name_of_its_content_and_is_shared(original: Path, tmp_path: Path) -> None:
    source = saved_by_a_tool(original / "m.onnx", tmp_path / "a")
    before = run(source)
    set_budget(source, threshold=1.0)
    (copy,) = data_files(read_model(source))
    assert re.fullmatch(r"model\.[0-9a-f]{12}\.data", copy)
    assert names(source.parent) == sorted(["model.onnx", DATA, copy])
    set_budget(source, trained=True, output=source.with_name("other.onnx"))
    assert names(source.parent) == sorted(["model.onnx", "other.onnx", DATA, copy])
    (tmp_path / "c").mkdir()
    set_budget(source, trained=True, output=tmp_path / "c" / "m.onnx")
    assert (tmp_path / "c" / copy).samefile(source.parent / copy)
    for path in (source.with_name("other.onnx"), tmp_path / "c" / "m.onnx"):
        np.testing.assert_array_equal(run(path), before)


def test_a_broken_copy_is_replaced(original: Path, tmp_path: Path) -> None:
    source = saved_by_a_tool(original / "m.onnx", tmp_path / "a")
    set_budget(source, trained=True)
    (copy,) = data_files(read_model(source))
    content = (source.parent / copy).read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / copy).write_bytes(content[:-1])
    set_budget(source, trained=True, output=tmp_path / "b" / "m.onnx")
    assert (tmp_path / "b" / copy).read_bytes() == content


def test_one_data_file_for_each_tensor(original: Path, tmp_path: Path) -> None:
    source = saved_by_a_tool(original / "m.onnx", tmp_path / "a", single=False)
    assert len(data_files(read_model(source))) > 3
    (tmp_path / "b").mkdir()
    set_budget(source, trained=True, output=tmp_path / "b" / "m.onnx")
    np.testing.assert_array_equal(run(tmp_path / "b" / "m.onnx"), run(source))


def test_the_model_refers_to_the_copies(original: Path, tmp_path: Path) -> None:
    source = saved_by_a_tool(original / "m.onnx", tmp_path / "a")
    model = read_model(source)
    write_model(model, tmp_path / "b.onnx", data_from=source.parent)
    assert data_files(model) == data_files(read_model(tmp_path / "b.onnx")) != [DATA]
