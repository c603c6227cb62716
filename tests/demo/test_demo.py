"""The embedded model gives the figures that were measured when it was trained."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from acm_export.base.errors import OutputError
from acm_export.demo import run as demo
from acm_export.demo.digits import ACM, DENSE, load_test_images

# Measured with PyTorch, layer by layer: τ -> (share of learners, accuracy %).
MEASURED = {
    -8: (1.000, 95.8), -4: (0.958, 95.6), -2: (0.843, 96.4), -1: (0.738, 96.1), 0: (0.618, 97.2),
    0.5: (0.561, 96.9), 1: (0.496, 96.4), 2: (0.408, 94.7), 3: (0.317, 94.4), 4: (0.237, 91.7),
}  # fmt: skip  # a table
ONE_IMAGE = 100 / 360


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_PAIRS", 1)
        patch.setattr(demo, "_RUNS", 1)
        return demo.run_demo(tmp_path_factory.mktemp("demo") / "new")


@pytest.mark.slow
def test_shares_and_accuracies_match_training(outcome: demo.Demo) -> None:
    assert [row.threshold for row in outcome.rows] == list(MEASURED)
    for row in outcome.rows:
        share, accuracy = MEASURED[row.threshold]
        assert row.share == pytest.approx(share, abs=0.0006)
        assert 100 * row.accuracy == pytest.approx(accuracy, abs=ONE_IMAGE + 0.06)
    assert 100 * outcome.dense_accuracy == pytest.approx(95.8, abs=0.06)


@pytest.mark.slow
def test_flops_follow_the_budget(outcome: demo.Demo) -> None:
    flops = [row.flops for row in outcome.rows]
    assert flops == sorted(flops, reverse=True)
    first, last = outcome.rows[0], outcome.rows[-1]
    # 17 tokens, 3 layers: FFN learners 4 × 4·48·24, projection learners 4 sites × 4 × 4·48·6 FLOPs per token.
    learners = 17 * 3 * (4 * 4 * 48 * 24 + 4 * 4 * 4 * 48 * 6)
    assert first.flops - last.flops == pytest.approx((first.budget - last.budget) * learners)


@pytest.mark.slow
def test_dense_flops_match_a_hand_count(outcome: demo.Demo) -> None:
    tokens, d = 17, 48
    layer = 4 * 2 * tokens * d * d + 2 * 2 * tokens * tokens * d + 2 * 2 * tokens * d * 96
    patches, head = 2 * 16 * (3 * 8 * 8) * d, 2 * d * 10
    assert outcome.dense.manifest.model_flops(1) == 3 * layer + patches + head


@pytest.mark.slow
def test_verification_holds_and_everything_can_be_written_as_json(outcome: demo.Demo) -> None:
    content = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert content["verification"]["acm"]["passed"]
    assert content["verification"]["dense"]["passed"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot create the folder .*sub: Not a directory") as refused:
        demo.run_demo(tmp_path / "file" / "sub")
    assert refused.value.hint
    read_only = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=read_only))
    with pytest.raises(OutputError, match="Read-only file system"):
        demo.run_demo(tmp_path / "new")


def test_embedded_files_are_small_and_say_where_they_come_from() -> None:
    folder = ACM.parent
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 1_000_000
    assert "licence" in (folder / "README.md").read_text()
    assert {p.name for p in (ACM, DENSE)} == {"digits-acm", "digits-dense"}


def test_the_test_images_are_the_360_of_the_split() -> None:
    images, labels = load_test_images()
    assert images.shape == (360, 3, 32, 32)
    assert images.dtype == "float32"
    assert sorted(set(labels.tolist())) == list(range(10))
    assert float(images.min()) == pytest.approx(-0.305 / 0.376, rel=1e-6)
