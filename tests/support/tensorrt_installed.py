"""The real TensorRTs of this machine, and the names that each defines.

ACM_TENSORRT_PYTHON and ACM_RTX_PYTHON name Pythons that have a TensorRT or TensorRT-RTX, separated by ``:``.
ACM_TENSORRT_BINDINGS names a folder with wheels of NVIDIA's bindings, which need no TensorRT: they are imported beside
libraries that only have the functions that they link to. To write data/tensorrt_signatures.json again from all of
these::

    pip download --no-deps -d WHEELS --only-binary :all: --python-version 3.12 tensorrt-cu12-bindings==11.4.0.106
    export ACM_TENSORRT_BINDINGS=WHEELS ACM_TENSORRT_PYTHON=PYTHON:PYTHON ACM_RTX_PYTHON=PYTHON
    python tests/support/tensorrt_installed.py

Stored are 8.5.3.1 and 8.6.0 (``tensorrt``, CPython 3.10), 8.6.1 (``tensorrt-bindings``, CPython 3.10), 10.3.0, 10.13.3,
10.16.1 and 11.4.0 (``tensorrt-cu12-bindings``, CPython 3.12) and TensorRT-RTX 1.7.1 (``tensorrt-rtx-cu13-bindings``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

SUPPORT = Path(__file__).parent
STORED = SUPPORT / "data" / "tensorrt_signatures.json"

_FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins"),
    *("_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi"),  # only 8.6
    *("_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv"),
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
_WHEEL = re.compile(r"tensorrt(_cu1\d)?_bindings-(?P<major>\d+)\.[\w.]+-cp3(?P<minor>\d+)-.*\.whl")


def pythons(variable: str) -> list[str]:
    """The Pythons that an environment variable names."""
    return [python for python in os.environ.get(variable, "").split(os.pathsep) if python]


def wheels() -> list[Path]:
    """The wheels of bindings in ACM_TENSORRT_BINDINGS."""
    folder = os.environ.get("ACM_TENSORRT_BINDINGS")
    return sorted(path for path in Path(folder).glob("*.whl") if _WHEEL.fullmatch(path.name)) if folder else []


def of_python(python: str) -> tuple[str, str, dict[str, str]]:
    """Module, version, and names with their descriptions of the TensorRT of a Python."""
    return _described(python, os.environ)


def of_wheel(wheel: Path, folder: Path) -> tuple[str, str, dict[str, str]]:
    """Module, version, and names with their descriptions of a wheel of bindings, unpacked into a folder.

    Raises:
        FileNotFoundError: There is no Python of the version that the wheel is for, or no C compiler.
    """
    tags = _WHEEL.fullmatch(wheel.name)
    assert tags
    python = _python(f"3.{tags['minor']}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        name = f"lib{library}.so.{tags['major']}"
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*command, str(source)], check=True)
    return _described(python, os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)})


def _python(version: str) -> str:
    """A Python of a version that starts: a shim of pyenv may not."""
    installed = Path.home() / ".pyenv" / "versions"
    for candidate in (f"python{version}", *map(str, installed.glob(f"{version}.*/bin/python"))):
        if (
            shutil.which(candidate)
            and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0
        ):
            return candidate
    raise FileNotFoundError(f"no Python {version} found")


def _described(python: str, environment: dict[str, str] | os._Environ[str]) -> tuple[str, str, dict[str, str]]:
    command = [python, str(SUPPORT / "tensorrt_signatures.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{python}: {done.stderr[-2000:]}")
    name, version, described = json.loads(done.stdout.splitlines()[-1])
    return name, f"RTX {version}" if "rtx" in name else version, described


def read_stored() -> dict[str, dict[str, str]]:
    """Descriptions by version and name of the stored TensorRTs."""
    content = json.loads(STORED.read_text())
    found: dict[str, dict[str, str]] = {version: {} for version in content["versions"]}
    for name, descriptions in content["names"].items():
        for text, versions in descriptions.items():
            for version in content["versions"] if versions == "all" else versions:
                found[version][name] = text
    return found


def members(described: dict[str, str], enum: str) -> dict[str, int]:
    """Members of an enum with their numbers."""
    texts = {name.partition(".")[2]: text for name, text in described.items() if name.startswith(f"{enum}.")}
    return {name: int(text.rpartition(" = ")[2]) for name, text in texts.items() if text.startswith("value ")}


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version; ``RTX 1.7.1.116`` begins with 1."""
    return tuple(map(int, re.findall(r"\d+", version)))


def write_stored(found: dict[str, dict[str, str]]) -> None:
    """Write what was found, by version, with one line for each name."""
    versions = sorted(
        found, key=lambda version: (version.startswith("RTX"), [int(n) for n in re.findall(r"\d+", version)])
    )
    lines = []
    for name in sorted({name for described in found.values() for name in described}):
        by_text: dict[str, list[str]] = {}
        for version in versions:
            if name in found[version]:
                by_text.setdefault(found[version][name], []).append(version)
        entry = {text: "all" if held == versions else held for text, held in by_text.items()}
        lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    STORED.write_text(f'{{"versions": {json.dumps(versions)},\n"names": {{\n' + ",\n".join(lines) + "\n}}\n")


def main() -> None:
    found = {}
    for python in (*pythons("ACM_TENSORRT_PYTHON"), *pythons("ACM_RTX_PYTHON")):
        name, version, described = of_python(python)
        if "lean" not in name:
            found[version] = described
    for wheel in wheels():
        with tempfile.TemporaryDirectory() as folder:
            _, version, described = of_wheel(wheel, Path(folder))
            found[version] = described
    write_stored(found)


if __name__ == "__main__":
    main()
