"""The checkpoint that a file was exported from, in PyTorch; the baseline is another checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.checkpoints.location import find_folder
from acm_export.checkpoints.weights import find_weights
from acm_export.modules import acm_layers
from acm_export.modules.gated_learners import TORCH_DTYPES
from acm_export.modules.wrapper import Exportable
from acm_export.runtimes.session import TappedSession
from acm_export.timing import environment
from acm_export.timing.backends.onnx_backend import read_onnx
from acm_export.timing.backends.pytorch_contexts import PytorchModel
from acm_export.timing.result import RuntimeInfo
from acm_export.timing.routing import SessionMeter

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.batches import GraphInput
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.backends.backend import TimedFile
    from acm_export.timing.environment import Device


class PytorchBackend:
    """Runs checkpoints in the dtype of the file, on the first GPU, or on the CPU if there is no GPU.

    Args:
        checkpoint: Folder that the file was exported from.
        baseline_part: Part of the baseline to load; by default the part of the checkpoint that the file names.
        cuda_graph: Whether each run is launched as a CUDA graph.
    """

    def __init__(self, checkpoint: Path, *, baseline_part: str | None = None, cuda_graph: bool = False) -> None:
        self._folder, self._baseline_part, self._cuda_graph = checkpoint, baseline_part, cuda_graph
        self.on_gpu = self.cuda_graphs = torch.cuda.is_available()
        self._dtype = torch.float32

    def read(self, path: Path) -> TimedFile:
        """Read a file of any target and compare it with the checkpoint.

        Raises:
            CheckpointError: The checkpoint is missing or broken.
            UsageError: The file was not exported from it, or is int8, which its checkpoint is not.
        """
        file = read_onnx(path)
        if file.manifest.quantization is not None:
            raise UsageError(
                f"{path} is int8, but PyTorch would run its float checkpoint",
                "time it with --runtime onnxruntime, or give the float file",
            )
        part = file.manifest.source.part
        _check_same(load_checkpoint(self._folder, part), file.manifest, path)
        self._baseline_part = self._baseline_part or part
        self._dtype = TORCH_DTYPES[file.manifest.dtype]
        return file

    def info(self) -> RuntimeInfo:
        """Name, version and device."""
        return RuntimeInfo("pytorch", torch.__version__, "CUDA" if self.on_gpu else "CPU")

    def device(self) -> Device:
        """The first GPU, or the CPU."""
        return environment.gpu() if self.on_gpu else environment.cpu()

    def meter(self, file: TimedFile) -> SessionMeter:
        """Measure budgets in ONNX Runtime on the CPU, which routes tokens as the checkpoint does, up to rounding."""
        return SessionMeter(TappedSession(file.path))

    def load(self, file: TimedFile, *, own_thresholds: bool) -> PytorchModel:  # noqa: ARG002  thresholds are always fed
        """Load the checkpoint."""
        return self._load(load_checkpoint(self._folder, file.manifest.source.part), file.inputs)

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """Inputs of a checkpoint."""
        return load_checkpoint(path, self._baseline_part).interface.data_inputs()

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of its weights."""
        return find_weights(find_folder(path)).sha256()

    def load_baseline(self, path: Path) -> PytorchModel:
        """Load any checkpoint, in the dtype of the file."""
        checkpoint = load_checkpoint(path, self._baseline_part)
        return self._load(checkpoint, checkpoint.interface.data_inputs())

    def _load(self, checkpoint: Checkpoint, inputs: tuple[GraphInput, ...]) -> PytorchModel:
        names = [value.name for value in inputs]
        module = Exportable(checkpoint.model, names, self._dtype, checkpoint.interface.outputs).in_dtype(self._dtype)
        device_name = "cuda" if self.on_gpu else "cpu"
        return PytorchModel(module, inputs, torch.device(device_name), cuda_graph=self._cuda_graph)


def _check_same(checkpoint: Checkpoint, manifest: Manifest, path: Path) -> None:
    """Refuse a checkpoint that the file was not exported from.

    Raises:
        UsageError: The digests of the weights differ, or the layers if the file does not record the digest.
    """
    source, hint = manifest.source, "give the folder that MODEL was exported from with --checkpoint"
    if source.sha256 is not None and source.sha256 != checkpoint.sha256:
        raise UsageError(
            f"{path} was exported from {source.name}, whose weights have SHA-256 {source.sha256}; the weights of "
            f"{checkpoint.path} have {checkpoint.sha256}",
            hint,
        )
    layers = {name: layer.spec.signature for name, layer in acm_layers(checkpoint.model)}
    if layers != {layer.name: layer.signature for layer in manifest.layers}:
        raise UsageError(f"the ACM layers of {checkpoint.path} differ from those of {path}", hint)
