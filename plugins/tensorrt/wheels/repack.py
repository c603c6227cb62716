"""Make a platform wheel of the pure one: its kernels for that platform only, and the plugin libraries added."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from acm_export.base.errors import PluginError
from acm_export.base.files import move_into_place, staging_folder

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 40_000_000
"""Largest wheel."""

PACK, LIBRARIES = "acm_export/plugins/kernels/pack/", "acm_export/plugins/tensorrt/libraries/"
_ANY = "-py3-none-any.whl"
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file, so that the same content gives the same wheel."""


def repack(pure: Path, pack: Path, libraries: Path, tag: str) -> Path:
    """Write the platform wheel next to the pure one.

    Args:
        pure: The wheel ``...-py3-none-any.whl``.
        pack: Folder of the kernel pack that replaces its own.
        libraries: Folder of the libraries.
        tag: Platform tag, as in ``manylinux_2_28_aarch64``.

    Raises:
        PluginError: The wheel is not a pure one, or would become too large.
        OutputError: The wheel cannot be written.
    """
    if not pure.name.endswith(_ANY):
        raise PluginError(f"{pure.name} is not a pure wheel: its name does not end in {_ANY}", "make wheel builds one")
    with ZipFile(pure) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist() if not name.startswith((PACK, LIBRARIES))}
    for folder, place in ((pack, PACK), (libraries, LIBRARIES)):
        files |= {place + path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    info = next(name for name in files if name.endswith(".dist-info/WHEEL")).rpartition("/")[0]
    files[f"{info}/WHEEL"] = _tagged(files[f"{info}/WHEEL"].decode(), f"py3-none-{tag}").encode()
    del files[f"{info}/RECORD"]
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    output = pure.with_name(pure.name.removesuffix(_ANY) + f"-py3-none-{tag}.whl")
    with staging_folder(output) as staging:
        written = staging / output.name
        with ZipFile(written, "w", ZIP_DEFLATED, compresslevel=9) as wheel:
            for name, content in files.items():
                entry = ZipInfo(name, _TIME)
                entry.external_attr = 0o100644 << 16
                wheel.writestr(entry, content, ZIP_DEFLATED, 9)
        if (size := written.stat().st_size) > MOST_BYTES:
            raise PluginError(
                f"{output.name} would have {size / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} MB are allowed"
            )
        move_into_place(written, output)
    return output


def _tagged(text: str, tag: str) -> str:
    """The content of WHEEL with one tag."""
    kept = [line for line in text.splitlines() if line and not line.startswith(("Root-Is-Purelib:", "Tag:"))]
    return "\n".join([*kept, "Root-Is-Purelib: false", f"Tag: {tag}"]) + "\n"


def _record(files: dict[str, bytes], own: str) -> str:
    """The content of RECORD: path, digest and size of each file, without a digest of its own."""
    rows = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    return "\n".join([*rows, f"{own},,"]) + "\n"


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
