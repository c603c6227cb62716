"""Shared by all tests: quiet libraries, hypothesis profiles, and models that are exported once per run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: threads for tiny models wait more than they work
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub: no test needs a network

from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from property_tests import register_profiles
from shared_files import shared_folder

if TYPE_CHECKING:
    from pathlib import Path

register_profiles()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded ACM model, exported with default options. Read-only."""

    def make(folder: Path) -> None:
        from acm_export.demo.digits import ACM
        from acm_export.exporter import export

        export(ACM, output=folder / "m.onnx", verify=False)

    return shared_folder(tmp_path_factory, "digits", make) / "m.onnx"


@pytest.fixture(scope="session")
def vit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``m.onnx``, a :func:`tiny_vit`, and ``dense.onnx``, one without ACM layers. Read-only."""

    def make(folder: Path) -> None:
        from exported_files import images
        from tiny_models import tiny_vit

        from acm_export.exporter import export

        torch.manual_seed(0)
        for name, model in (("m", tiny_vit()), ("dense", tiny_vit({}))):
            export(model, images(2), folder / f"{name}.onnx", verify=False, output_fields=("logits",))

    return shared_folder(tmp_path_factory, "vit", make)


@pytest.fixture(scope="session")
def mixed_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``m.onnx`` of three signatures, ``old.onnx`` of an earlier version, a model and data. Read-only."""

    def make(folder: Path) -> None:
        from calibration_files import write_images
        from old_files import SPECS, with_overloads
        from tiny_models import tiny_vit

        from acm_export.checkpoints import save_checkpoint
        from acm_export.exporter import export

        torch.manual_seed(0)
        checkpoint = folder / "checkpoint"
        save_checkpoint(tiny_vit(SPECS), checkpoint)
        export(checkpoint, output=folder / "m.onnx", verify=False, output_fields=("logits",), with_counts=True)
        with_overloads(folder / "m.onnx", folder / "old.onnx")
        write_images(folder / "data.npz", 40)

    return shared_folder(tmp_path_factory, "mixed", make)


@pytest.fixture(scope="session")
def int8_files(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    """Int8 versions of ``vit_files``: ``m``, ``dynamic``, ``mixed`` (one layer in float) and ``dense``. Read-only."""

    def make(folder: Path) -> None:
        from exported_files import images
        from quantized_files import quantize_file

        feeds = {"pixel_values": images(8)}
        for name in ("m", "dense"):
            quantize_file(vit_files / f"{name}.onnx", folder / f"{name}.onnx", feeds)
        quantize_file(vit_files / "m.onnx", folder / "dynamic.onnx", feeds, dynamic=True)
        quantize_file(vit_files / "m.onnx", folder / "mixed.onnx", feeds, keep=["vit.layers.1.mlp"])

    return shared_folder(tmp_path_factory, "int8", make)
