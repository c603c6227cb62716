"""Activations that the operator does not have, in plans."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from click.testing import CliRunner
from distillation_runs import vit

from acm_export.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["acmize", *map(str, args)])


def test_a_dry_run_names_activations_that_gelu_replaces(tmp_path: Path) -> None:
    folder = vit(tmp_path)
    copied = shutil.copytree(folder / "dense", tmp_path / "other")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_act": "relu2"}))
    shown = " ".join(run(copied, "--dry-run").stdout.split())
    assert "warning: the activation of 2 sites (vit.layers.*.mlp) is not one of gelu, " in shown
    for part, expected in ((copied, True), (folder / "dense", False)):
        sites = json.loads(run(part, "--dry-run", "--sites", "ffn,q_proj", "--json").stdout)["sites"]
        assert [site["replaced_activation"] for site in sites] == [False, expected] * 2
