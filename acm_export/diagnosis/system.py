"""Checks of the machine: Jetson or not, and free disk space."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from acm_export.machine.finding import Finding

L4T_RELEASE = Path("/etc/nv_tegra_release")
"""Its first line names the release, as in ``# R36 (release), REVISION: 4.3, ...``."""

_L4T_JETPACKS = {35: "5", 36: "6", 38: "7", 39: "7"}
_OLDEST_L4T = 36
"""JetPack 5 has Python 3.8; acm-export's verbs need 3.10."""

ROOM = 2 << 30
"""Bytes. A ViT-L in float32 takes 1.2 GB, and a new output is written next to the old one before it replaces it."""


def jetson() -> Finding:
    """Check whether this is a Jetson, and its JetPack."""
    try:
        line = next(iter(L4T_RELEASE.read_text(errors="replace").splitlines()), "")
    except OSError:
        return Finding("Jetson", "missing", f"{L4T_RELEASE} does not exist: not a Jetson, or a container that hides it")
    found = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", line)
    if found is None:
        return Finding("Jetson", "wrong", f"{L4T_RELEASE} does not name a release: {line[:80]!r}")
    release = int(found[1])
    text = f"Jetson Linux {release}.{found[2]}, JetPack {_L4T_JETPACKS.get(release, 'unknown')}"
    if release < _OLDEST_L4T:
        return Finding("Jetson", "wrong", f"{text}; the verbs need JetPack 6", "run engines with trtexec")
    return Finding("Jetson", "ok", text)


def working_folder() -> Finding:
    """Check the free space in the working folder."""
    return _room("disk, working folder", Path.cwd(), "work in another folder")


def temporary_folder() -> Finding:
    """Check the free space in the folder for temporary files."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding("disk, temporary files", "missing", str(error), "export TMPDIR=FOLDER")
    return _room("disk, temporary files", folder, "export TMPDIR=FOLDER")


def _room(name: str, folder: Path, fix: str) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, "wrong", f"{folder}: {error.strerror}", fix)
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(name, "wrong", f"{text}, which is not writable", fix)
    if free < ROOM:
        return Finding(name, "wrong", f"{text}; {ROOM / 1e9:.1f} GB should be free", fix)
    return Finding(name, "ok", text)
