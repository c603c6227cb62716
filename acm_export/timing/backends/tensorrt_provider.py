"""ONNX files in ONNX Runtime's TensorRT provider, which builds engines from them and needs the plugin library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.engine.plan import has_explicit_quantization
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.targets import rewrite_for
from acm_export.plugins.tensorrt.build import LIBRARY
from acm_export.runtimes.onnx_runtime import TensorrtSession
from acm_export.runtimes.session import TappedSession
from acm_export.timing.backends.onnx_backend import OnnxBackend, OnnxModel, make_thresholds_inputs, required_inputs
from acm_export.timing.routing import SessionMeter

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.backends.backend import TimedFile

_PRECISION = {"fp16": {"trt_fp16_enable": "True"}, "bf16": {"trt_bf16_enable": "True"}}


class TensorrtProvider(OnnxBackend):
    """Runs files of any target; each is rewritten for the target ``ort-tensorrt`` in memory.

    Args:
        plugin: Path of the plugin library; None for the one next to the file.
        cache: Folder of the provider's engine cache; None to always build engines.
    """

    def __init__(self, plugin: Path | None = None, cache: Path | None = None) -> None:
        super().__init__(TensorrtSession)
        self._plugin, self._cache = plugin, cache
        self._options: dict[str, str] = {}

    def check(self, manifest: Manifest, path: Path) -> None:
        """Check the plugin library before ONNX Runtime loads it.

        Raises:
            EngineError: The library is missing or does not load.
        """
        library = (self._plugin or path.parent / LIBRARY).absolute()
        finding = check_plugin_library(library)
        if finding.state != "ok":
            raise EngineError(finding.found, finding.fix)
        self._options = {"trt_extra_plugin_lib_paths": str(library), **_PRECISION.get(manifest.dtype, {})}
        if has_explicit_quantization(manifest):
            self._options["trt_int8_enable"] = "True"
        if self._cache is not None:
            self._options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(self._cache)}

    def meter(self, file: TimedFile) -> SessionMeter:
        """Measure budgets with the portable body on the CPU; an engine does not show its inner values."""
        return SessionMeter(TappedSession(file.path))

    def load(self, file: TimedFile, *, own_thresholds: bool) -> OnnxModel:
        """Load the file with its op in the provider's domain; inputs that runs feed have no default there."""
        model = read_model(file.path)
        manifest = rewrite_for(model, file.manifest, "ort-tensorrt", folder=file.path.parent)
        if not own_thresholds:
            make_thresholds_inputs(model, file)
            _drop_defaults(model, {layer.thresholds for layer in manifest.layers})
        return self.open(model, file.path.parent)

    def open(self, model: onnx.ModelProto, folder: Path) -> OnnxModel:
        """Open a session; the provider builds its engine in the first run of new shapes, which is not timed."""
        session = TensorrtSession(model, folder, provider_options=self._options)
        return OnnxModel(session, required_inputs(model))


def _drop_defaults(model: onnx.ModelProto, names: set[str]) -> None:
    """Make inputs required, in place: TensorRT's parser turns an input with an initializer into a constant."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
