"""ONNX Runtime on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import MissingDependencyError, ModelFileError
from acm_export.base.optional import require
from acm_export.onnx_file.overloads import serialize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import onnx

_ERRORS_ONLY = 3
_COPIES_WEIGHTS = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""Optimisers that leave a second copy. The latter, without the former, crashes up to 1.27 on fp16 files (tried: 1.23.2,
1.26.0, 1.27.0; not 1.30.0)."""

_log = logging.getLogger(__name__)


class Session:
    """An ONNX Runtime session for a model held in memory; see the classes below.

    Args:
        model: Its external data, if any, lie in ``folder``.
        folder: Where the model came from.
        threads: Of one operator; 0 for one per core.
        lean: Make no second copy of the weights, prepacked or cut, at the price of speed.
        provider_options: Of the first execution provider, by the names that ONNX Runtime documents.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed, or not with the execution provider.
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
                "pip install 'acm-export[gpu]' in place of acm-export[cpu]",
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
        disabled = [*_COPIES_WEIGHTS] if lean else []
        providers = [(self.providers[0], dict(provider_options or {})), *self.providers[1:]]
        content = serialize(model, runtime.__version__)
        try:
            self._session = runtime.InferenceSession(
                content, options, providers=providers, disabled_optimizers=disabled
            )
        except Exception as error:  # its own types, with no common base but Exception
            raise ModelFileError(f"ONNX Runtime {runtime.__version__} cannot load the model: {error}") from error
        if self.providers[0] not in self._session.get_providers():  # it falls back without an error
            raise MissingDependencyError(
                f"ONNX Runtime {runtime.__version__} could not start its {self.providers[0]}",
                "CUDA and cuDNN must be those that this build of ONNX Runtime wants; it said above what it misses",
            )
        self.name = f"ONNX Runtime {runtime.__version__} ({self.device})"
        _log.debug("%s runs the model from %s", self.name, folder)
        self.input_names: list[str] = [value.name for value in self._session.get_inputs()]
        self.output_names: list[str] = [value.name for value in self._session.get_outputs()]

    def run(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run once.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the outputs to compute; all by default.

        Returns:
            Arrays by output name.
        """
        names = list(outputs) if outputs is not None else self.output_names
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))


class CpuSession(Session):
    """On the CPU."""

    providers = ("CPUExecutionProvider",)
    device = "CPU"


class CudaSession(Session):
    """On an NVIDIA GPU, what it cannot run on the CPU."""

    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    device = "CUDA"


class TensorrtSession(Session):
    """On an NVIDIA GPU, through engines that ONNX Runtime builds with TensorRT; what they cannot hold, on CUDA."""

    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    device = "TensorRT"
