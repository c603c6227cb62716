"""Every TensorRT name that acm-export uses is in the real bindings, with the arguments that it is called with.

What the bindings of each version define is stored in support/data/tensorrt_signatures.json, which tensorrt_installed.py
writes from real TensorRTs; those of this machine are compared with it. The uses are found in the source itself.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tensorrt_installed import members, numbers, of_python, of_wheel, pythons, read_stored, wheels
from tensorrt_signatures import accepts, overloads
from tensorrt_uses import uses_in

from acm_export.engine.runtime import _DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorrt_types import Found, Use

ROOT = Path(__file__).parents[2]
STORED = read_stored()
VERSIONS = list(STORED)

FINDERS = ("find_tensorrt",)
"""Functions that return TensorRT's module."""

MODULES = {"acm_export/machine/children.py": (("tensorrt", "module"), ("registry", "module"))}
"""Functions and variables that hold TensorRT's module without an annotation."""

FROM_8_6 = {"IPluginRegistry.load_library", "LayerType.CAST"}
FROM_10 = {
    "IProgressMonitor",
    "IProgressMonitor.__init__",
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
    "IBuilderConfig.progress_monitor",
    "IPluginRegistry.all_creators",
    "IPluginRegistry.get_creator",
    "ParserError.node_name",
    "ParserError.node_operator",
}
BEFORE_10 = {
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "ILayer.precision",
    "ILayer.set_output_type",
    "IPluginRegistry.plugin_creator_list",
    "IPluginRegistry.get_plugin_creator",
}
"""Names that are used with some versions only, after a look at the version or a test for existence."""

ORDINARY = {"append", "clear", "dtype", "name", "nbytes", "pop", "shape", "size", "value"}
"""Names of TensorRT that files, arrays and collections have, too."""


@cache
def described() -> dict[str, str]:
    """A description of every name, from the newest version that has it."""
    return {name: text for version in VERSIONS for name, text in STORED[version].items()}


@cache
def found() -> dict[str, Found]:
    """The uses of TensorRT by file."""
    links = [ROOT / "acm_export" / name for name in ("calibration", "plugins")]
    files = [*ROOT.glob("acm_export/**/*.py"), *ROOT.glob("plugins/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    names = [str(file.relative_to(ROOT)) for file in sorted(files) if not any(map(file.is_relative_to, links))]
    uses = {
        name: uses_in((ROOT / name).read_text(), name, described(), finders=FINDERS, modules=MODULES.get(name, ()))
        for name in names
    }
    return {name: one for name, one in uses.items() if one.uses}


def is_used(name: str, version: str) -> bool:
    """Whether a name that occurs in the source is used with a version."""
    if version.startswith("RTX") or numbers(version) >= (10,):
        return name not in BEFORE_10
    return name not in FROM_10 and (name not in FROM_8_6 or numbers(version) >= (8, 6))


def wrong(uses: list[Use], version: str) -> Iterator[str]:
    """Uses of names that a version lacks, or whose call it does not accept."""
    for use in uses:
        if use.tested or not is_used(use.name, version):
            continue
        text = STORED[version].get(use.name)
        if text is None:
            yield f"{use.where}: {use.name} is not in TensorRT {version}"
        elif use.call is not None and not accepts(text, *use.call):
            yield f"{use.where}: {use.name} of TensorRT {version} is {text}, called with {use.call}"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_use_is_in_the_real_bindings(version: str) -> None:
    assert [text for one in found().values() for text in wrong(one.uses, version)] == []


def test_names_that_are_tested_for_exist_in_some_version() -> None:
    tested = {use.name for one in found().values() for use in one.uses if use.tested}
    assert tested - described().keys() == set()
    assert {"IProgressMonitor", "LayerType.CAST", "ParserError.node_name"} <= tested


def test_uses_are_found_where_they_are() -> None:
    assert {f"acm_export/engine/{name}.py" for name in ("build", "context", "library", "runtime", "settings")} | {
        "acm_export/machine/children.py"
    } <= found().keys()
    names = {use.name for one in found().values() for use in one.uses}
    assert {"IExecutionContext.execute_async_v3", "ICudaEngine.get_tensor_profile_shape", "ILayer.get_input"} <= names
    unresolved = {file: one.unresolved.keys() - ORDINARY for file, one in found().items()}
    assert {file: names for file, names in unresolved.items() if names} == {}


def test_names_of_some_versions_are_used_and_missing_in_the_others() -> None:
    names = {use.name for one in found().values() for use in one.uses}
    assert (FROM_8_6 | FROM_10 | BEFORE_10) - names == set()
    old = [STORED[version] for version in VERSIONS if version.startswith("8")]
    new = [STORED[version] for version in VERSIONS if not version.startswith("8")]
    assert [name for name in FROM_10 if all(name in version for version in old)] == []
    assert [name for name in BEFORE_10 if all(name in version for version in new)] == []
    assert [name for name in FROM_8_6 if name in STORED["8.5.3.1"]] == []


def test_names_in_strings_are_in_the_real_bindings() -> None:
    for version, names in STORED.items():
        old = version.startswith("8")
        assert f"NetworkDefinitionCreationFlag.{'EXPLICIT_BATCH' if old else 'STRONGLY_TYPED'}" in names
        types = members(names, "DataType").keys()
        assert _DTYPES.keys() - types == ({"INT64"} if old else set())


WRONG = """
import tensorrt as trt
from types import ModuleType

def build(tensorrt: ModuleType, network: "trt.INetworkDefinition") -> trt.IBuilderConfig:
    builder = tensorrt.Builder()
    config = builder.create_builder_config()
    (config.set_flag if network else config.set_flg)(tensorrt.BuilderFlag.TF33)
    for layer in [network.get_layer(i) for i in range(network.num_layer)]:
        layer.precission = layer.get_output(index=0).dtype
    return config

class Owner:
    def __init__(self, tensorrt: ModuleType) -> None:
        self._config = build(tensorrt, None)

    def use(self, profile, monitor) -> None:
        self._config.add_optimization_profile(profile, 1)
        profile.set_shape("x", 1)
"""


def test_wrong_names_and_arguments_are_found() -> None:
    one = uses_in(WRONG, "f.py", described())
    texts = list(wrong(one.uses, "10.3.0"))
    names = [text.split()[1] for text in texts]
    assert sorted(names) == [
        "Builder.__init__",
        "BuilderFlag.TF33",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.set_flg",
        "ILayer.precission",
        "INetworkDefinition.num_layer",
    ]
    assert "f.py:6: Builder.__init__ of TensorRT 10.3.0 is (logger) -> None, called with (0, ())" in texts
    assert one.unresolved.keys() == {"set_shape"}


@pytest.mark.parametrize("wheel", wheels() or [pytest.param(None, marks=pytest.mark.skip("set ACM_TENSORRT_BINDINGS"))])
def test_wheels_of_bindings_define_what_is_stored(wheel: Path, tmp_path: Path) -> None:
    try:
        _, version, names = of_wheel(wheel, tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if version not in STORED:
        pytest.skip(f"the names of TensorRT {version} are not stored")
    assert names == STORED[version]


PYTHONS = [*pythons("ACM_TENSORRT_PYTHON"), *pythons("ACM_RTX_PYTHON")]


@pytest.mark.parametrize("python", PYTHONS or [pytest.param("", marks=pytest.mark.skip("set ACM_TENSORRT_PYTHON"))])
def test_installed_tensorrts_define_what_is_stored_and_used(python: str) -> None:
    module, version, names = of_python(python)
    if version in STORED and "lean" in module:  # it has fewer classes, so some functions return unknown ones
        arguments = [{name: re.sub("-> [^|]*", "", of[name]) for name in names} for of in (names, STORED[version])]
        assert arguments[0] == arguments[1]
    elif version in STORED:
        assert names == STORED[version]
    runtime = found()["acm_export/engine/runtime.py"].uses + found()["acm_export/engine/context.py"].uses
    used = {use.name for use in runtime if not use.tested and is_used(use.name, version)}
    assert used - names.keys() == set()


def test_docstrings_of_pybind11_are_read() -> None:
    text = """f(*args, **kwargs)
Overloaded function.

1. f(self: trt.T, name: str, shape: Tuple[int, int] = (1, 2), kind: trt.Kind = <Kind.A: 0>) -> Dict[str, int]

2. f(self: trt.T) -> List[trt.ILayer]

3. f(self: trt.T, x: object) -> nvinfer1::Opaque
"""
    assert overloads(text) == ["(name, shape=, kind=) -> Dict[str, int]", "() -> list[ILayer]", "(x) -> Any"]
    described = " | ".join(overloads(text))
    assert all(accepts(described, *call) for call in ((2, []), (0, ["name", "kind"]), (0, [])))
    assert not any(accepts(described, *call) for call in ((4, []), (1, ["name"]), (0, ["kind"])))
