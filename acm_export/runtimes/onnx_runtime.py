"""ONNX Runtime sessions on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from acm_export.base.errors import MissingDependencyError, ModelFileError, UsageError, first_line
from acm_export.base.optional import install_command, require
from acm_export.onnx_file.token_ids import check_token_ids, embedding_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from acm_export.data.batches import Arrays

_ERRORS_ONLY = 3
_COPIES_WEIGHTS = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""Optimizers that make a second copy of the weights. Disabling only the first makes ONNX Runtime up to 1.27 crash on
fp16 files (tested: 1.23.2, 1.26.0, 1.27.0 crash, 1.30.0 does not)."""

_FAILS_WITHOUT_FOLDING = ("GatherSliceToSplitFusion",)
"""On the int8 body without constant folding, 1.20.1 names two nodes alike and refuses the model; 1.23.2 does not."""

_log = logging.getLogger(__name__)


class Session:
    """An ONNX Runtime session for a model in memory; the subclasses set the execution providers.

    Args:
        model: Model whose external data, if any, is in ``folder``.
        folder: Folder of the model.
        threads: Threads of one operator; 0 for one per core.
        lean: Save memory at the cost of speed: make no second copy of the weights, prepacked or split.
        provider_options: Options of the first execution provider, as ONNX Runtime documents them.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed, or lacks the execution provider.
        ModelFileError: ONNX Runtime refuses the model.
    """

    providers: tuple[str, ...]
    device: str

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        *,
        threads: int = 0,
        lean: bool = False,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        runtime = require("onnxruntime")
        if self.providers[0] not in runtime.get_available_providers():
            raise MissingDependencyError(
                f"ONNX Runtime {runtime.__version__} has no {self.providers[0]}, "
                f"only {', '.join(runtime.get_available_providers())}",
                f"pip uninstall -y onnxruntime && {install_command('gpu')}",
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
        disabled = [*_COPIES_WEIGHTS, *_FAILS_WITHOUT_FOLDING] if lean else []
        providers = [(self.providers[0], dict(provider_options or {})), *self.providers[1:]]
        content = model.SerializeToString()
        try:
            self._session = runtime.InferenceSession(
                content, options, providers=providers, disabled_optimizers=disabled
            )
        except Exception as error:  # ONNX Runtime's types have no other common base
            raise ModelFileError(f"ONNX Runtime {runtime.__version__} cannot load the model: {error}") from error
        if self.providers[0] not in self._session.get_providers():  # falls back without an error
            raise MissingDependencyError(
                f"ONNX Runtime {runtime.__version__} could not start its {self.providers[0]}",
                "install the CUDA and cuDNN that it was built for; its message above names the missing library",
            )
        self._embedding_sizes = embedding_sizes(model)
        self.name = f"ONNX Runtime {runtime.__version__} ({self.device})"
        _log.debug("%s runs the model from %s", self.name, folder)
        self.input_names: list[str] = [value.name for value in self._session.get_inputs()]
        self.output_names: list[str] = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> Arrays:
        """Run the model once.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the outputs to compute; all by default.

        Returns:
            Arrays by output name.

        Raises:
            UsageError: The model does not run on these inputs.
        """
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # ONNX Runtime's types have no other common base
            check_token_ids(self._embedding_sizes, feeds)
            raise UsageError(
                f"the model does not run on the data: {first_line(error)}",
                f"the inputs were {_describe(feeds)}; --debug shows the traceback",
            ) from error


class CpuSession(Session):
    """Runs on the CPU."""

    providers = ("CPUExecutionProvider",)
    device = "CPU"


class CudaSession(Session):
    """Runs on an NVIDIA GPU; operators that CUDA does not support run on the CPU."""

    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    device = "CUDA"


class TensorrtSession(Session):
    """Runs on an NVIDIA GPU in engines that ONNX Runtime builds with TensorRT; other operators run on CUDA."""

    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    device = "TensorRT"


def _describe(feeds: Arrays) -> str:
    """Dtype, shape and range of each input, without the thresholds that the tool feeds."""
    shown = {n: a for n, a in feeds.items() if not n.endswith(".thresholds")}
    ranges = {n: f" from {a.min():g} to {a.max():g}" if a.size else "" for n, a in shown.items()}
    return ", ".join(f"{n} {a.dtype} {list(a.shape)}{ranges[n]}" for n, a in shown.items())
