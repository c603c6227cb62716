"""Find the folder of a checkpoint: as given, inside a sentence-transformers folder, or on the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from acm_export.base.errors import CheckpointError, UsageError

_LOG = logging.getLogger("acm_export")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*bpe.codes")
"""As in fnmatch, an asterisk also stands for folders."""
_PICKLED = ("pytorch_model*.bin", "*/pytorch_model*.bin")
_MAX_MODULES_BYTES = 1 << 20


def find_folder(given: Path) -> Path:
    """The folder that contains ``config.json``.

    Args:
        given: Checkpoint folder; folder of sentence-transformers, whose ``modules.json`` names the transformer; or a
            name on the Hugging Face Hub (``org/name``), which is downloaded unless ``HF_HUB_OFFLINE`` is set. Only
            configs, tokenizers and weights are downloaded: safetensors files, or ``pytorch_model.bin`` without them.

    Raises:
        UsageError: The folder does not exist, and is not a name on the Hub either.
        CheckpointError: ``modules.json`` is broken.
    """
    folder = given if given.exists() or not is_hub_id(given) else _download(given)
    if (folder / "config.json").is_file() or not (modules := folder / "modules.json").is_file():
        return folder
    if modules.stat().st_size > _MAX_MODULES_BYTES:
        raise CheckpointError(f"{modules} has {modules.stat().st_size} bytes; expected at most {_MAX_MODULES_BYTES}")
    try:
        listed = json.loads(modules.read_text(encoding="utf-8"))
        paths = [str(m["path"]) for m in listed if str(m["type"]).endswith("Transformer")]
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise CheckpointError(f"{modules} is not a list of modules: {error}", "copy or download it again") from error
    if len(paths) != 1 or Path(paths[0]).is_absolute() or ".." in Path(paths[0]).parts:
        raise CheckpointError(
            f"{modules} lists {len(paths)} transformers inside the folder; expected one",
            "give the folder of the transformer",
        )
    return folder / paths[0]


def is_hub_id(path: Path) -> bool:
    """Whether a path that does not exist looks like a name on the Hub, and not like a mistyped path."""
    return (
        bool(_HUB_ID.fullmatch(str(path)))
        and len(path.parts) == 2
        and path.parts[0] not in (".", "..")
        and not path.parent.exists()
    )


def download_hint(path: Path) -> str:
    """The command that downloads a model from the Hub."""
    return f"to download it from the Hugging Face Hub: hf download {path} --local-dir {path.name}"


def _download(name: Path) -> Path:
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        return name
    if constants.HF_HUB_OFFLINE:
        return _cached(name)
    _LOG.info("downloading %s from the Hugging Face Hub", name)
    try:
        files = HfApi().list_repo_files(str(name))
        patterns = _PATTERNS if any(f.endswith(".safetensors") for f in files) else (*_PATTERNS, *_PICKLED)
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except Exception as error:  # no network, no such model, no access: huggingface_hub raises many types
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"there is no folder {name}, and it cannot be downloaded from the Hugging Face Hub: {reason}",
            download_hint(name),
        ) from error


def _cached(name: Path) -> Path:
    """A model that was downloaded earlier, or the name itself, which does not exist as a folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except LocalEntryNotFoundError:
        return name
