"""What a platform wheel brings, made up: a tiny kernel pack, and libraries that no linker made.

The whole libraries and their digests are computed here, not by the code that is tested.
"""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plugin_pack import write_fake_pack

from acm_export.plugins.tensorrt import prebuilt

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SERIES = ("8.5", "8.6", "10", "11")
HEADERS = {"8.5": "8.5.3", "8.6": "8.6.0", "10": "10.3.0", "11": "11.0.0"}
ARCHITECTURES = ("sm_80", "sm_87")


@dataclass(frozen=True)
class Files:
    """Folders of a made-up wheel, and the libraries that it stands for."""

    pack: Path
    libraries: Path
    whole: dict[str, bytes]

    def change_index(self, **changes: Any) -> None:
        path = self.libraries / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make them the files of the installed package."""
        monkeypatch.setattr(prebuilt, "libraries_folder", lambda: self.libraries)
        monkeypatch.setattr(prebuilt, "default_folder", lambda: self.pack)


def write_files(folder: Path, heads: dict[str, bytes] | None = None) -> Files:
    """Write a pack and its libraries.

    Args:
        folder: To write in.
        heads: What lies before the cubins in each library; by default a text for each TensorRT.
    """
    heads = heads or {series: f"head for TensorRT {series}".encode() for series in SERIES}
    pack, libraries = folder / "pack", folder / "libraries"
    write_fake_pack(pack, ARCHITECTURES)
    libraries.mkdir()
    cubins, whole, rows = padded(pack), {}, []
    for series, head in heads.items():
        tail = f"tail for {series}".encode()
        whole[series] = head + cubins + tail
        (libraries / f"{series}.zlib").write_bytes(zlib.compress(head + tail))
        sizes = {"offset": len(head), "size": len(whole[series]), "sha256": hashlib.sha256(whole[series]).hexdigest()}
        rows.append({"tensorrt": series, "headers": HEADERS[series], "file": f"{series}.zlib", **sizes})
    index = {
        "schema": 1,
        "platform": platform.machine(),
        "architectures": ARCHITECTURES,
        "cubins_sha256": hashlib.sha256(cubins).hexdigest(),
        "libraries": rows,
    }
    (libraries / "index.json").write_text(json.dumps(index))
    return Files(pack, libraries, whole)


def padded(pack: Path) -> bytes:
    """The cubins of a pack as a library has them: each begins at a multiple of 64 bytes."""
    table, content, blob = json.loads((pack / "table.json").read_text()), (pack / "kernels.bin").read_bytes(), b""
    for row in table["kernels"]:
        blob += content[row["offset"] : row["offset"] + row["size"]]
        while len(blob) % 64:
            blob += b"\0"
    return blob
