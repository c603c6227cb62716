"""The run of a quantisation: observe the float file, compute the scales, compare, correct the table, write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import load_external_data_for_model

from acm_export.calibration.data import CalibrationData, Survey
from acm_export.data.dataset import HOLD_OUT_EVERY, Dataset
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.file_data import open_file_data
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import Manifest, Setting, read_manifest, write_manifest
from acm_export.onnx_file.model_file import data_files, read_model
from acm_export.onnx_file.quantization.view import GraphView
from acm_export.onnx_file.quantization_record import Quantization
from acm_export.onnx_file.staged_file import finish, stage
from acm_export.onnx_file.targets import rewrite_for
from acm_export.onnx_file.thresholds import write_thresholds
from acm_export.quantization.apply import Application
from acm_export.quantization.compare import compare
from acm_export.quantization.dial import dial_settings
from acm_export.quantization.recalibrate import recalibrate, setting_after
from acm_export.quantization.result import Comparison, CorrectedKnot, QuantizationResult
from acm_export.quantization.selection import check_can_quantize, select
from acm_export.quantization.session import ObservingSession
from acm_export.quantization.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from acm_export.base.files import StrPath
    from acm_export.base.progress import Progress
    from acm_export.data.batches import Batch
    from acm_export.data.open_data import Data
    from acm_export.quantization.options import Options
    from acm_export.quantization.result import QuantizedPart
    from acm_export.runtimes.onnx_runtime import Session


@dataclass(frozen=True)
class _Samples:
    """The data of a run.

    Args:
        everything: All samples.
        chosen: Those that set the scales, and those held out to compare the files.
        survey: Size and hash of the chosen ones.
    """

    everything: Dataset
    chosen: CalibrationData
    survey: Survey

    @property
    def compared(self) -> int:
        """Number of samples that the files are compared on."""
        return self.survey.held_out or self.survey.samples

    def unseen(self) -> Iterator[Batch]:
        """The samples that the files are compared on: those that set no scale, if there are any."""
        return self.chosen.held_out() if self.survey.held_out else self.chosen.calibration()


class QuantizationRun:
    """Quantises one file.

    Args:
        path: Path of the float file.
        staging: Staging folder for files.
        options: How to quantise.
        runtime: Session class that runs the files.
        progress: Receives stages and batches.

    Raises:
        UsageError: There is no such file, an option does not fit it, or nothing in it can be quantised.
        ModelFileError: The file is broken, not from acm-export, already quantised, or bf16.
    """

    def __init__(self, path: Path, staging: Path, options: Options, runtime: type[Session], progress: Progress) -> None:
        self._path, self._staging = path, staging
        self._options, self._runtime, self._progress = options, runtime, progress
        model = read_model(path)
        self._manifest = read_manifest(model, path)
        check_graph(model, self._manifest, path)
        check_can_quantize(self._manifest, path, options)
        check_thresholds(model, self._manifest, path)
        self._thresholds = stored_thresholds(model, self._manifest, path.parent)
        self._selection = select(model, self._manifest, GraphView(model, path.parent), path, options)
        self._size = _size(model, path)
        self._source = _with_data_file(model, path, staging)
        self._samples: _Samples | None = None
        self._statistics: Statistics | None = None
        self._runtime_name: str | None = None
        self._notes: list[str] = []

    def observe(self, data: Data, processor: StrPath | None) -> None:
        """Open the data, and run the float file on them.

        Args:
            data: Samples.
            processor: Folder or file of the tokenizer or processor; by default that of the model.

        Raises:
            UsageError: The data do not fit the model.
            QuantizationError: A tensor has NaN or infinite values.
        """
        readers = self._selection.readers()
        session = ObservingSession(self._source, tuple(readers), self._runtime)
        self._runtime_name = session.name
        everything = open_file_data(data, session.inputs, path=self._path, manifest=self._manifest, processor=processor)
        self._progress.stage(f"reading {everything.name}", None)
        wanted = -(-self._options.samples * HOLD_OUT_EVERY // (HOLD_OUT_EVERY - 1))
        used = everything.spread(wanted)
        settings = dial_settings(self._manifest, self._thresholds)
        statistics = Statistics(readers, self._selection.layers_by_tensor(), settings)
        first = next(CalibrationData(used, batch_size=1).calibration())
        size = statistics.batch_size(session, first, self._options.batch)
        chosen = CalibrationData(used, batch_size=size)
        survey = chosen.survey()
        self._progress.stage("observing the float file", survey.batches)
        statistics.collect(session, chosen.calibration(), survey.batches, self._progress.batch)
        self._statistics, self._samples = statistics, _Samples(everything, chosen, survey)

    def result(self, target: Path) -> QuantizationResult:
        """Quantise, compare with the float file, and write the int8 file.

        Args:
            target: Path of the int8 file.

        Raises:
            QuantizationError: The data set no scale for a layer, or the int8 file does not give finite outputs.
            OutputError: The file cannot be written; existing files are unchanged.
        """
        model, manifest, parts = self._quantized()
        comparisons: tuple[Comparison, ...] = ()
        knots: tuple[CorrectedKnot, ...] = ()
        staged = self._staging / target.name
        _write_plain(model, manifest, self._source.parent, staged)
        if self._samples is not None:
            comparisons = self._compare(staged, self._samples)
            manifest, knots = self._corrected(staged, manifest, self._samples)
        elif manifest.calibration is not None:
            self._notes.append(
                "the budget table was measured before quantisation; give --data, or calibrate the int8 file, to "
                "correct it"
            )
        _write_final(model, manifest, staged)
        data_path = finish(staged, target)
        survey = None if self._samples is None else self._samples.survey
        return QuantizationResult(
            path=target,
            data_path=data_path,
            manifest=manifest,
            parts=parts,
            kept=self._selection.kept,
            bytes_before=self._size,
            bytes_after=_size(read_model(target), target),
            samples=survey.samples if survey else 0,
            compared_samples=self._samples.compared if self._samples else 0,
            held_out=bool(survey and survey.held_out),
            comparisons=comparisons,
            knots=knots,
            runtime=self._runtime_name,
            notes=tuple(self._notes),
        )

    def _quantized(self) -> tuple[onnx.ModelProto, Manifest, tuple[QuantizedPart, ...]]:
        """The int8 model, without a budget input, and its manifest."""
        model = read_model(self._source)
        if self._manifest.budget_input:
            budget_input.detach(model, self._thresholds)
        steps = len(self._selection.layers) + len(self._selection.sites)
        self._progress.stage("computing int8 weights and scales", steps)
        view = GraphView(model, self._source.parent)
        application = Application(model, self._manifest, view, self._statistics, self._options)
        manifest = application.run(self._selection, self._progress.batch)
        self._statistics = None
        self._notes += application.notes
        survey = None if self._samples is None else self._samples.survey
        quantization = Quantization(
            activations=self._options.activations,
            weight_bits=self._options.weight_bits,
            linears=self._selection.linears,
            kept=self._selection.kept_by_user,
            embeddings=self._selection.embeddings,
            migration=self._options.migration if survey and self._options.migration else None,
            data_sha256=survey.sha256 if survey else None,
            samples=survey.samples if survey else 0,
        )
        return model, manifest.replaced(quantization=quantization), tuple(application.parts)

    def _compare(self, staged: Path, samples: _Samples) -> tuple[Comparison, ...]:
        settings = dial_settings(self._manifest, self._thresholds)
        batches = len(settings) * -(-samples.compared // self._options.batch)
        self._progress.stage("comparing the int8 file with the float file", batches)
        if not samples.survey.held_out:
            self._notes.append(
                f"the files were compared on the samples that set the scales: {samples.survey.samples} given, at least "
                f"{HOLD_OUT_EVERY} needed to hold one out"
            )
        before, after = (ObservingSession(path, (), self._runtime) for path in (self._source, staged))
        return compare(before, after, settings, samples.unseen, self._progress.batch)

    def _corrected(
        self, staged: Path, manifest: Manifest, samples: _Samples
    ) -> tuple[Manifest, tuple[CorrectedKnot, ...]]:
        """The manifest with the calibration measured on the int8 file."""
        if manifest.calibration is None:
            return manifest, ()
        data = CalibrationData(samples.everything, batch_size=self._options.batch)
        corrected = recalibrate(staged, manifest.calibration, data, self._runtime, self._progress)
        self._notes += corrected.notes
        setting = setting_after(manifest, corrected.calibration)
        return manifest.replaced(calibration=corrected.calibration, setting=setting), corrected.knots


def _write_plain(model: onnx.ModelProto, manifest: Manifest, folder: Path, staged: Path) -> None:
    """Write the int8 model for ONNX Runtime, with its thresholds as initializers."""
    plain = manifest.replaced(calibration=None, setting=Setting(None))
    write_manifest(model, rewrite_for(model, plain, "portable"))
    stage(model, folder, staged)


def _write_final(model: onnx.ModelProto, manifest: Manifest, staged: Path) -> None:
    """Write the staged model again, for its target and with its setting."""
    packs = manifest.target != "portable"
    if packs:  # int8 weights as int32, which needs their values
        load_external_data_for_model(model, str(staged.parent))
    if manifest.budget_input:
        budget_input.attach(model, manifest)
    elif manifest.setting.threshold is not None or manifest.setting.budget is not None:
        write_thresholds(model, manifest)
    write_manifest(model, rewrite_for(model, manifest, manifest.target))
    if packs:
        stage(model, staged.parent, staged)
    else:
        onnx.save(model, staged)


def _with_data_file(model: onnx.ModelProto, path: Path, staging: Path) -> Path:
    """Path of a copy whose weights are in a data file, from which they are read when needed; ``path`` if it has one.

    Weights inside a file are in memory once for each reader, and several times while ONNX Runtime loads them.
    """
    if data_files(model):
        return path
    folder = staging / "float"
    folder.mkdir()
    stage(model, path.parent, folder / path.name)
    return folder / path.name


def _size(model: onnx.ModelProto, path: Path) -> int:
    """Bytes of a file and its external data."""
    names = data_files(model)
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in names)
