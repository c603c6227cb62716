"""Images for models of timm are processed as their ``config.json`` says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from acm_export.base.errors import UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data
from acm_export.data.timm_settings import write_timm_settings

if TYPE_CHECKING:
    from pathlib import Path

TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "label_names": ["dog", "cat"],
    "pretrained_cfg": {
        "input_size": [3, 8, 8],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.5, 0.5],
    },
}


def test_images_for_a_timm_model_are_processed_as_its_config_says(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(TIMM))
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "a.png")
    image = GraphInput("x", ("batch", 3, 8, 8), np.dtype(np.float32))
    samples = open_data(tmp_path / "photos", [image], model_folder=tmp_path / "model")
    assert samples.labels == pytest.approx([1, 0])
    resized = Image.fromarray(pixels).resize((15, 10), Image.Resampling.BILINEAR).crop((3, 1, 11, 9))
    expected = (np.asarray(resized) / 255 - [0.5, 0.4, 0.3]) / [0.25, 0.5, 0.5]
    assert samples[0]["x"] == pytest.approx(expected.transpose(2, 0, 1), abs=1e-5)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"input_size": None}, {"interpolation": "random"}])
def test_a_timm_config_that_does_not_say_enough_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "config.json").write_text(json.dumps(TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | change}))  # type: ignore[operator]
    image = GraphInput("x", ("batch", 3, 8, 8), np.dtype(np.float32))
    with pytest.raises(UsageError, match="pretrained_cfg does not describe how images are processed"):
        open_data(tmp_path / "photos", [image], model_folder=tmp_path)[0]


def test_a_timm_model_gets_its_settings_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    write_timm_settings(tmp_path, tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (written["size"], written["crop_size"]) == ({"shortest_edge": 10}, {"height": 8, "width": 8})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").unlink()
    write_timm_settings(tmp_path, tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
