"""TensorRT's abstract classes with every virtual function aborting, generated from the headers that are found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("VRuntime", "VCudaEngine", "VExecutionContext", "IPluginRegistry")


def stubs(folder: Path) -> str:
    """The C++ text of ``StubVRuntime`` and so on, in the namespace ``nvinfer1::apiv``.

    Args:
        folder: That has TensorRT's headers.
    """
    files = sorted(folder.glob("*.h"))
    text = "\n".join(re.sub(r"//.*|/\*.*?\*/", "", path.read_text(errors="replace")) for path in files)
    made = "\n".join(_stub(name, text) for name in CLASSES)
    return f"namespace nvinfer1 {{ namespace apiv {{\n{made}\n}} }}\n"


def _stub(name: str, text: str) -> str:
    found = re.search(rf"^class {name}\b[^;{{]*\{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the headers do not define {name}")
    functions = re.findall(r"virtual\s+(?!~)([^;{}]*?)\s*=\s*0\s*;", found[1])
    bodies = "\n".join(f"    {' '.join(function.split())} override {{ std::abort(); }}" for function in functions)
    return f"struct Stub{name} : {name} {{\n{bodies}\n}};"
