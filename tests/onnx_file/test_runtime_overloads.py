"""Files with several function bodies, for versions of ONNX Runtime with and without overloads."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exported_files import images, session
from tiny_models import tiny_vit

from acm_export.exporter import export
from acm_export.modules import ACMSpec
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.overloads import serialize

if TYPE_CHECKING:
    from pathlib import Path

OLD = "1.23.2"
TWO = {"vit.layers.0.mlp": ACMSpec(12, 4, 6), "vit.layers.1.mlp": ACMSpec(12, 4, 6, activation="relu")}
ONE = {"vit.layers.0.mlp": ACMSpec(12, 4, 6), "vit.layers.1.mlp": ACMSpec(12, 4, 6)}


@pytest.fixture(scope="module", params=[TWO, ONE], ids=["two", "one"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overloads") / "m.onnx"
    export(tiny_vit(request.param), (images(2),), path, verify=False, with_counts=True)
    return path


def outputs(content: bytes) -> list[np.ndarray[Any, Any]]:
    return session(content).run(None, {"pixel_values": images(3).numpy()})


def test_an_old_runtime_gets_uniquely_named_bodies_and_computes_the_same(path: Path) -> None:
    model = read_model(path)
    renamed = onnx.load_from_string(serialize(model, OLD))
    keys = [(f.domain, f.name) for f in renamed.functions]
    assert len(set(keys)) == len(keys) == len(model.functions)
    called = {(n.domain, n.op_type, n.overload) for n in renamed.graph.node if n.domain}
    assert called == {(f.domain, f.name, f.overload) for f in renamed.functions}
    if len(keys) > 1:
        assert not any(f.overload for f in renamed.functions)
    for ours, theirs in zip(
        outputs(serialize(model, OLD)), outputs(serialize(model, onnxruntime.__version__)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_serialising_does_not_change_the_model(path: Path) -> None:
    model = read_model(path)
    before = copy.deepcopy(model)
    serialize(model, OLD)
    assert model == before


@pytest.mark.parametrize("runtime", ["1.27.0", "1.32.0", "1.100.0.dev1", "2.0"])
def test_a_runtime_with_overloads_gets_the_unchanged_model(path: Path, runtime: str) -> None:
    assert onnx.load_from_string(serialize(read_model(path), runtime)) == read_model(path)


def test_inspect_says_which_runtime_a_file_with_several_bodies_needs(path: Path) -> None:
    several = len(read_model(path).functions) > 1
    assert ("1.27 or later" in inspect(path).runs_on) == several
