"""Turn columns of a dataset, such as images, sounds, transcripts and classes, into inputs and labels of a model."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.collate import CLASS, DECODER_IDS, LABELS
from acm_export.data.decoder_tokens import TRANSCRIPTS, DecoderTokens, no_answer, target_columns, target_of
from acm_export.data.images import PIXELS, ImageProcessor, find_settings
from acm_export.data.processor_files import class_number
from acm_export.data.sounds import Sounds, decoded
from acm_export.data.text import text_of
from acm_export.data.tokenizer import IDS, Tokenizer, find_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from acm_export.data.batches import GraphInput
    from acm_export.data.tokenizer import Encoding

_IMAGES = ("image", "img")
_SOUND = "audio"
_TOKENISED_TOGETHER = 4096


class Columns:
    """Makes the inputs that a sample lacks, and leaves the others unchanged.

    ``pixel_values`` come from a PIL image, ``input_values`` and ``input_features`` from a sound, ``input_ids`` from
    text, ``decoder_input_ids`` from the right answer, ``labels`` from the transcript of a sound or from a class, which
    is a number or one of the model's names.

    Args:
        inputs: Inputs of the model.
        model_folder: Folder with the settings of processors, the tokenizer and the vocabulary.
        processor: Folder or file of the settings or the tokenizer, if they are elsewhere.
        transcribed: Whether transcripts become labels.
        classes: Names of the model's classes by number.
        decoder_start: Token that the model's decoder starts with; None if unknown.
    """

    def __init__(
        self,
        inputs: Sequence[GraphInput],
        model_folder: Path,
        processor: Path | None,
        *,
        transcribed: bool = True,
        classes: tuple[str, ...] = (),
        decoder_start: int | None = None,
    ) -> None:
        self.names = tuple(value.name for value in inputs)
        self._graph_inputs, self._inputs = tuple(inputs), frozenset(self.names)
        self.model_folder, self.processor, self.classes = model_folder, processor, classes
        self.transcribed, self._decoder_start = transcribed, decoder_start
        self.sounds = Sounds(inputs, model_folder, processor)
        self._warned: set[str] = set()

    def __call__(self, sample: Mapping[str, object], name: str) -> dict[str, object]:
        """All columns of a sample, and the inputs and labels made of them.

        Args:
            sample: Columns by name.
            name: Name of the sample, for errors.

        Raises:
            UsageError: A column cannot be used, or has to be processed by the user first.
        """
        found = dict(sample)
        missing = self._inputs - found.keys()
        if self.pixels in missing and (column := _image_column(found, name)) is not None:
            found[self.pixels] = self._pixels(found[column], column, name)
        if IDS in missing and (text := text_of(found, name, self._targets)) is not None:
            (encoding,) = self._tokenizer([text], [name])
            found |= self._tokens(encoding)
            if encoding.truncated:
                what = f"{name} was truncated to {self._tokenizer.limit} tokens, the most that the model takes"
                self._warn_once("texts", f"{what}; so are all longer texts")
        if self.sounds.input in missing and _SOUND in found:
            found |= self._heard(found, name)
        if DECODER_IDS in missing and found.keys() & {IDS, self.sounds.input}:
            found[DECODER_IDS] = self.answers([self._target(found, name)], [name], once=True)[0]
        if (label := self._label(found, name)) is not None:
            found[LABELS] = label
        return found

    @property
    def answered(self) -> bool:
        """Whether the model has a decoder that is run on the right answer."""
        return DECODER_IDS in self.names

    def answers(self, texts: Sequence[str], names: Sequence[str], *, once: bool = False) -> list[np.ndarray]:
        """The tokens for a decoder that is run on the right answer.

        Args:
            texts: Answers, such as the transcripts of sounds.
            names: Name of each sample, for errors.
            once: Whether to warn of the first truncated text alone, instead of counting them.
        """
        tokens, truncated = self._decoder(texts, names)
        if truncated:
            what = f"the answers of {truncated} of {len(texts)} samples were"
            what = f"{f'the answer of {names[0]} was' if once else what} truncated to {self._decoder.limit} tokens, "
            self._warn_once("answers", f"{what}the most that the decoder takes{'; so are all longer ones' * once}")
        return tokens

    def tokenized(self, rows: Sequence[Mapping[str, object]], name: str) -> list[dict[str, object]]:
        """Tokenise all rows of a text file that have no tokens yet, and warn how many were truncated.

        Args:
            rows: Columns by name.
            name: Name of the file, for errors.

        Raises:
            UsageError: A text cannot be used.
        """
        done, truncated = [dict(row) for row in rows], 0
        where = [f"sample {index} of {name}" for index in range(len(done))]
        texts = {
            i: text for i, row in enumerate(done) if IDS not in row and (text := text_of(row, where[i], self._targets))
        }
        indices = list(texts)
        for start in range(0, len(indices), _TOKENISED_TOGETHER):
            part = indices[start : start + _TOKENISED_TOGETHER]
            encodings = self._tokenizer([texts[i] for i in part], [where[i] for i in part])
            for i, encoding in zip(part, encodings, strict=True):
                done[i] |= self._tokens(encoding)
                truncated += encoding.truncated
        if truncated:
            _warn(
                f"{truncated} of the {len(done)} texts in {name} were truncated to {self._tokenizer.limit} tokens, the "
                "most that the model takes"
            )
        if self.answered:
            lacking = [i for i, row in enumerate(done) if DECODER_IDS not in row]
            answers = self.answers([self._target(done[i], where[i]) for i in lacking], [where[i] for i in lacking])
            for i, tokens in zip(lacking, answers, strict=True):
                done[i][DECODER_IDS] = tokens
        return done

    def padded(self, inputs: Sequence[GraphInput]) -> tuple[GraphInput, ...]:
        """The inputs with the tokenizer's padding, if text was tokenised."""
        used = vars(self)  # has the tokenizers that were needed
        if "_decoder" in used:
            inputs = [replace(v, fill=self._decoder.pad_id) if v.name == DECODER_IDS else v for v in inputs]
        if "_tokenizer" not in used:
            return tuple(inputs)
        pad_id, left = self._tokenizer.pad_id, self._tokenizer.pad_left
        return tuple(
            v if v.name == DECODER_IDS else replace(v, fill=pad_id if v.name == IDS else 0, pad_left=left)
            for v in inputs
        )

    @property
    def _targets(self) -> tuple[str, ...]:
        """Columns that may hold the right answer."""
        return target_columns(of_sounds=self.sounds.input is not None) if self.answered else ()

    def _target(self, sample: Mapping[str, object], name: str) -> str:
        if (text := target_of(sample, self._targets, name)) is None:
            raise no_answer(f"{name} has {', '.join(sample)}", f"name the column with it {self._targets[0]}")
        return text

    @cached_property
    def _decoder(self) -> DecoderTokens:
        value = next(value for value in self._graph_inputs if value.name == DECODER_IDS)
        return DecoderTokens(find_tokenizer(self.processor, self.model_folder), self._decoder_start, value)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        ids = next(value for value in self._graph_inputs if value.name == IDS)
        length = ids.shape[-1]
        limit = length if isinstance(length, int) else ids.lengths.get(length, (1, None))[1]
        return Tokenizer(find_tokenizer(self.processor, self.model_folder), limit, ids.below)

    def _heard(self, sample: Mapping[str, object], name: str) -> dict[str, object]:
        """The inputs made of a sound, and labels of its transcript."""
        values, rate = decoded(sample[_SOUND], f"the column {_SOUND} of {name}")
        found: dict[str, object] = {**self.sounds(values, rate, name)}
        if self.sounds.window is not None and len(values) > self.sounds.window:
            what = f"{name} was cut to {self.sounds.longest}, the most that the model takes"
            self._warn_once("sounds", f"{what}; so are all longer sounds")
        texts = (sample.get(column) for column in (TRANSCRIPTS if self.transcribed else ()))
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is not None and LABELS not in sample:
            found[LABELS] = self.sounds.speech.labels(text, name)
        return found

    def _tokens(self, encoding: Encoding) -> dict[str, object]:
        return {name: array for name, array in encoding.arrays.items() if name in self._inputs}

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _warn(text)

    def _label(self, sample: Mapping[str, object], name: str) -> object:
        """The label of a sample that has a class or the name of one; None to leave its labels as they are."""
        label = sample.get(LABELS, sample.get(CLASS))
        if isinstance(label, str):
            return class_number(label, self.classes, name)
        return None if LABELS in sample else label

    @property
    def pixels(self) -> str:
        """Name of the input that takes images: ``pixel_values``, or the only one of that form."""
        images = [value.name for value in self._graph_inputs if value.is_image]
        return PIXELS if PIXELS in self.names or len(images) != 1 else images[0]

    @cached_property
    def _images(self) -> ImageProcessor:
        return ImageProcessor(find_settings(self.processor, self.model_folder))

    def _pixels(self, image: Any, column: str, name: str) -> np.ndarray:
        if not _is_image(image):
            raise UsageError(
                f"{name} has {type(image).__name__} in the column {column}; expected a PIL image",
                f'return dataset.with_format(None).cast_column("{column}", datasets.Image())',
            )
        try:
            return self._images(image, f"the column {column} of {name}")
        except OSError as error:  # PIL reads the file only now
            raise UsageError(f"cannot read the image in the column {column} of {name}: {error}") from error


def _image_column(sample: Mapping[str, object], name: str) -> str | None:
    for column in _IMAGES:
        if column in sample:
            return column
    images = [column for column, value in sample.items() if _is_image(value)]
    if len(images) > 1:
        raise UsageError(
            f"{name} has images in the columns {', '.join(images)}",
            f'rename the right one to "image": dataset.rename_column("{images[0]}", "image")',
        )
    return images[0] if images else None


def _is_image(value: object) -> bool:
    pillow = sys.modules.get("PIL.Image")  # where it was not imported, nothing is an image of it
    return pillow is not None and isinstance(value, pillow.Image)


def _warn(text: str) -> None:
    warnings.warn(text, AcmWarning, stacklevel=3)
