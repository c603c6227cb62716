"""The baselines of a request: the dense model, and an int8 version of it if requested."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.base.files import sha256_of
from acm_export.data.processor_files import processor_files
from acm_export.onnx_file.file_data import processor_folder
from acm_export.onnx_file.model_file import read_model
from acm_export.timing.result import ModelFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.base.progress import Progress
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.backends.backend import Backend
    from acm_export.timing.request import LatencyRequest

_INT8_OPERATORS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"})


@dataclass(frozen=True)
class BaselineFile:
    """A baseline to time: its path, and what the result says of it."""

    path: Path
    model: ModelFile


def check_data(request: LatencyRequest, manifest: Manifest) -> None:
    """Check that there is data if the baseline is to be quantised with static activations.

    Raises:
        UsageError: There is none.
    """
    done = manifest.quantization
    if request.baseline_int8 and request.data is None and (done is None or done.activations == "static"):
        raise UsageError(
            "--baseline-int8 needs --data: the scales of static activations come from data",
            "give --data, or time a file that was quantised with --activations dynamic",
        )


def baseline_warnings(request: LatencyRequest, manifest: Manifest) -> Iterator[str]:
    """A warning if an int8 file is compared with nothing but a float ONNX file."""
    dense = request.baseline
    if manifest.quantization is None or request.baseline_int8 or dense is None or dense.suffix != ".onnx":
        return
    if not _INT8_OPERATORS & {node.op_type for node in read_model(dense).graph.node}:
        yield (
            f"the model is int8, the baseline {dense.name} is not: add --baseline-int8 to compare with a dense int8 "
            "model too"
        )


@contextmanager
def open_baselines(
    request: LatencyRequest, backend: Backend, manifest: Manifest, progress: Progress
) -> Iterator[tuple[BaselineFile, ...]]:
    """Provide the baseline, followed by its int8 version, which exists while the block runs.

    Args:
        request: Names the baseline and the data.
        backend: Runtime of the baseline.
        manifest: Manifest of the timed file, which says how it was quantised.
        progress: Receives a step for the quantisation.

    Yields:
        None, one or two baselines.

    Raises:
        AcmError: The baseline cannot be read or quantised.
    """
    if request.baseline is None:
        yield ()
        return
    dense = BaselineFile(request.baseline, ModelFile(str(request.baseline), backend.baseline_digest(request.baseline)))
    if not request.baseline_int8:
        yield (dense,)
        return
    with TemporaryDirectory(prefix="acm-export-") as folder:
        progress.stage("quantising the baseline", None)
        path = Path(folder) / request.baseline.name
        yield dense, BaselineFile(path, _quantized(request, request.baseline, manifest, path))


def _quantized(request: LatencyRequest, dense: Path, manifest: Manifest, output: Path) -> ModelFile:
    """Quantise the dense file with the options of the timed file, or with the default options if that is float."""
    from acm_export.quantization.quantize import quantize

    done = manifest.quantization
    without_data = done is not None and not done.samples
    folder = processor_folder(request.model, manifest)
    processor = request.processor or (folder if processor_files(folder) else None)
    data, processor = (None, None) if without_data else (request.data, processor)
    quantize(dense, output, data=data, processor=processor, **_options(manifest, dense))
    return ModelFile(f"{dense}, quantised to int8", sha256_of(output))


def _options(manifest: Manifest, dense: Path) -> dict[str, Any]:
    """Arguments of ``quantize`` that repeat how a file was quantized."""
    done = manifest.quantization
    if done is None:
        return {}
    present = {tensor.name for tensor in read_model(dense).graph.initializer}
    samples = {"samples": done.samples} if done.samples else {}
    return samples | {
        "activations": done.activations,
        "weight_bits": done.weight_bits,
        "keep": [name for name in done.kept if name in present],
        "embeddings": bool(done.embeddings),
        "migration": done.migration or 0.0,
    }
