"""Images on disk, in one folder per class or all in one, and the image processor saved with a checkpoint."""

from __future__ import annotations

import json
import warnings
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.optional import require
from acm_export.data.checks import BRIGHTEST
from acm_export.data.processor_files import PROCESSOR_SETTINGS, SETTINGS, read_settings
from acm_export.data.timm_settings import CONFIG, timm_settings

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

Arrays = dict[str, np.ndarray]
PIXELS = "pixel_values"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
_MAX_SIDE = 1 << 14
_RESAMPLE = range(6)
"""Filters of Pillow that resize: nearest, Lanczos, bilinear, bicubic, box and Hamming."""


class ImageFolder:
    """Images on disk.

    Subfolders are classes: those of the model if all have names of its classes, otherwise numbered by their names if
    all are numbers, otherwise in the order of their names. Classes alternate, so that the first n samples hold all.

    Args:
        folder: Folder of images, or of one subfolder of images for each class.
        processor: File or folder of the image processor's settings; None if the user named none.
        model_folder: Folder to search for settings if there are none in ``folder``.
        classes: Names of the model's classes by number.
        name: Name of the model's input.

    Raises:
        UsageError: There are no images or no settings.
    """

    def __init__(
        self,
        folder: Path,
        processor: Path | None,
        model_folder: Path,
        classes: tuple[str, ...] = (),
        name: str = PIXELS,
    ) -> None:
        self.name, self._input = str(folder), name
        self.files = _labelled_files(folder, classes)
        _check_all_used(folder, [path for path, _ in self.files])
        self._process = ImageProcessor(find_settings(processor, folder, model_folder))

    @property
    def labels(self) -> np.ndarray | None:
        """Classes of all images, int64 ``[images]``; None without classes."""
        found = [label for _, label in self.files if label is not None]
        return np.array(found, np.int64) if found else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Arrays:
        """The input, float32 ``[channels, height, width]``, and ``labels`` if there are classes."""
        path, label = self.files[index]
        arrays: Arrays = {self._input: self._process(_read(path), str(path))}
        if label is not None:
            arrays["labels"] = np.array(label, np.int64)
        return arrays


def _labelled_files(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, int | None]]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = [path for path in folders if _images(path)]
    if not classes:
        return [(path, None) for path in _images(folder)]
    if all(path.name in names for path in classes):
        numbers = [names.index(path.name) for path in classes]
    elif all(path.name.isdecimal() for path in classes):
        numbers = [int(path.name) for path in classes]
    else:
        numbers = list(range(len(classes)))
    columns: list[list[tuple[Path, int | None]]] = [
        [(file, number) for file in _images(path)] for number, path in zip(numbers, classes, strict=True)
    ]
    return [entry for row in zip_longest(*columns) for entry in row if entry is not None]


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image_file(path))


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _check_all_used(folder: Path, used: list[Path]) -> None:
    """Refuse a folder without images, and warn about images outside the expected layout."""
    layout = "images must be in the folder itself, or in one subfolder for each class"
    found = (path for path in folder.rglob("*") if _is_image_file(path))
    others = sorted({p for p in found if not any(q.startswith(".") for q in p.relative_to(folder).parts)} - set(used))
    if used and others:
        warnings.warn(
            f"{len(others)} of the images in {folder} are not used, such as {others[0]}: {layout}",
            AcmWarning,
            stacklevel=2,
        )
    if not used and others:
        raise UsageError(f"the images in {folder} are nested too deeply, such as {others[0]}: {layout}")
    if not used:
        raise UsageError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


def _read(path: Path) -> Image:
    """Read an image and apply its EXIF orientation, as Hugging Face's libraries do."""
    image_module, operations = require("PIL.Image"), require("PIL.ImageOps")
    try:
        with image_module.open(path) as image:
            image.load()
        upright: Image = operations.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise UsageError(f"cannot read the image {path}: {error}") from error
    return upright


def find_settings(processor: Path | None, *folders: Path) -> Path:
    """Find the settings of an image processor.

    Args:
        processor: File or folder of the settings; None if the user named none.
        folders: Folders to search otherwise, in this order.

    Raises:
        UsageError: There are no settings in any of them.
    """
    if processor is not None:
        folders = (processor,)
    for folder in folders:
        if folder.is_file():
            return folder
        for name in (SETTINGS, PROCESSOR_SETTINGS):
            if (folder / name).is_file():
                return folder / name
        if "pretrained_cfg" in read_settings(folder / CONFIG):
            return folder / CONFIG
    raise UsageError(
        f"there is no {SETTINGS} in {' or '.join(map(str, folders))}",
        "name its folder with --processor: that of the checkpoint, or the .processor folder that export wrote",
    )


def takes_raw_pixels(processor: Path | None, *folders: Path) -> bool:
    """Whether the settings of an image processor leave pixels from 0 to 255; False without settings.

    Args:
        processor: File or folder of the settings; None if the user named none.
        folders: Folders to search otherwise, in this order.
    """
    try:
        return ImageProcessor(find_settings(processor, *folders)).brightest > BRIGHTEST
    except UsageError:
        return False


class ImageProcessor:
    """The steps that image processors of vision transformers share: resize, crop, rescale, normalize.

    Args:
        path: Path of preprocessor_config.json.

    Raises:
        UsageError: The file has no image processor settings.
    """

    def __init__(self, path: Path) -> None:
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            settings = timm_settings(settings) or settings.get("image_processor", settings)
            resize = settings.get("do_resize", True)
            self._size = _height_width(settings["size"]) if resize else None
            self._shortest = settings["size"].get("shortest_edge") if resize and self._size is None else None
            self._crop = _height_width(settings["crop_size"]) if settings.get("do_center_crop", False) else None
            self._resample = int(settings.get("resample", 2))
            self._scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
            normalize = settings.get("do_normalize", True)
            self._mean = np.array(settings["image_mean"] if normalize else [0.0], np.float32)
            self._std = np.array(settings["image_std"] if normalize else [1.0], np.float32)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} has no image processor settings: {error!r}") from error
        self._mode = "L" if self._mean.size == 1 and normalize else "RGB"
        self._check(path)

    @property
    def brightest(self) -> float:
        """Value of a white pixel."""
        return float(((255 * self._scale - self._mean) / self._std).max())

    def _check(self, path: Path) -> None:
        """Check the settings.

        Raises:
            UsageError: A number is out of range.
        """
        sides = [*(self._size or ()), *(self._crop or ()), *([] if self._shortest is None else [self._shortest])]
        wrong = None
        if not all(isinstance(side, int) and 1 <= side <= _MAX_SIDE for side in sides):
            wrong = f"sizes are {sides}; expected whole numbers from 1 to {_MAX_SIDE}"
        elif self._resample not in _RESAMPLE:
            wrong = f"resample is {self._resample}; expected 0 to {_RESAMPLE[-1]}"
        elif self._mean.shape != self._std.shape or self._mean.shape not in ((1,), (3,)):
            wrong = (
                f"image_mean and image_std have the shapes {self._mean.shape} and {self._std.shape}; expected 1 or 3"
            )
        elif not (np.isfinite(self._mean).all() and np.isfinite(self._std).all() and (self._std > 0).all()):
            wrong = f"image_std is {self._std.tolist()}; expected positive numbers"
        if wrong is not None:
            raise UsageError(f"{path}: {wrong}", "copy the file again from the original model")

    def __call__(self, image: Image, name: str) -> np.ndarray:
        """Process a PIL image.

        Args:
            image: PIL image with 8 bits per channel.
            name: Name of the image, for errors.

        Returns:
            float32 ``[channels, height, width]``.

        Raises:
            UsageError: The image has more than 8 bits per channel.
        """
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise UsageError(
                f"{name} has pixels of more than 8 bits (Pillow mode {image.mode})",
                "convert it to 8 bits, as in the training of the model; values above 255 would be clipped",
            )
        image = image.convert(self._mode)
        if self._size is not None:
            image = image.resize(self._size[::-1], self._resample)
        elif self._shortest:
            shorter = min(image.size)  # and the other side as transformers rounds it
            image = image.resize([self._shortest * side // shorter for side in image.size], self._resample)
        if self._crop is not None:
            left, top = ((have - want) // 2 for have, want in zip(image.size, self._crop[::-1], strict=True))
            image = image.crop((left, top, left + self._crop[1], top + self._crop[0]))
        pixels = np.asarray(image, np.float32).reshape(image.size[1], image.size[0], -1) * self._scale
        normalized = (pixels - self._mean) / self._std
        return np.ascontiguousarray(normalized.transpose(2, 0, 1), np.float32)


def _height_width(size: Any) -> tuple[int, int] | None:
    """Height and width from any form of the size setting; None if it gives only the shortest edge."""
    if isinstance(size, int):
        return size, size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return None
