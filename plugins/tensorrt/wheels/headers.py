"""TensorRT's headers for each library: from given folders, else from NVIDIA's repository at pinned commits.

The headers of TensorRT 8 are proprietary, so none are part of this repository.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.headers import TensorRTHeaders, tensorrt_headers
from acm_export.plugins.tensorrt.prebuilt import SERIES, series_of

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = "https://github.com/NVIDIA/TensorRT.git"


@dataclass(frozen=True)
class Pin:
    """The oldest supported release of a series in NVIDIA's repository.

    Args:
        version: Version of its headers.
        commit: Commit; git checks that the files have this digest.
    """

    version: tuple[int, int, int]
    commit: str


PINS = {
    "8.5": Pin((8, 5, 3), "b0c259a749aab1486ed3b4458e7176555b003497"),
    "8.6": Pin((8, 6, 0), "4af32bad37c905319ca679e62f986f461cb25d49"),
    "10": Pin((10, 3, 0), "c5b9de37f7ef9034e2efc621c664145c7c12436e"),
    "11": Pin((11, 0, 0), "771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5"),
}


def header_sets(folders: Sequence[Path], fetched: Path, repository: str = REPOSITORY) -> dict[str, TensorRTHeaders]:
    """Headers for each series: the oldest in the given folders, which newer TensorRTs accept, else fetched ones.

    Args:
        folders: Folders of TensorRT, each with ``include/NvInferRuntime.h``.
        fetched: Folder for headers that are fetched.
        repository: Address of NVIDIA's repository.

    Raises:
        PluginError: A folder has no supported headers, or fetching failed.
    """
    given: dict[str, TensorRTHeaders] = {}
    for folder in folders:
        headers = tensorrt_headers(folder)
        series = series_of(headers.version)
        if series is None:
            raise PluginError(
                f"{folder} has headers of TensorRT {headers.version_text}; there are libraries for {', '.join(SERIES)}",
                "leave it out of TENSORRT_ROOT",
            )
        if series not in given or headers.version < given[series].version:
            given[series] = headers
    return {series: given.get(series) or _fetch(series, fetched / series, repository) for series in SERIES}


def folders_of_environment() -> list[Path]:
    """The folders in TENSORRT_ROOT, separated by ``:``."""
    return [Path(folder) for folder in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if folder]


def _fetch(series: str, folder: Path, repository: str) -> TensorRTHeaders:
    pin = PINS[series]
    folder.mkdir(parents=True, exist_ok=True)
    for arguments in (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth=1", "--filter=blob:none", repository, pin.commit),
        ("checkout", "--quiet", pin.commit, "--", "include"),
    ):
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PluginError(
                f"TENSORRT_ROOT has no headers of TensorRT {series}, and fetching them from {repository} failed: "
                + done.stderr.strip(),
                "name a folder for each of " + ", ".join(SERIES) + " in TENSORRT_ROOT, separated by ':'",
            )
    headers = tensorrt_headers(folder)
    if headers.version != pin.version:
        expected = ".".join(map(str, pin.version))
        raise PluginError(f"commit {pin.commit} has headers of TensorRT {headers.version_text}, expected {expected}")
    return headers
