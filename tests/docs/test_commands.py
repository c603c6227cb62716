"""Commands in the documents: all of them parse, and the fast ones run."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner
from shared_files import shared_folder
from tiny_models import tiny_vit

from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
OUTPUTS = {"-o", "--output", "--plot", "--report", "--timing-cache", "--save-onnx"}
QUICK_VERBS = {"calibrate", "export", "inspect", "latency", "retarget", "set-budget", "verify"}
NOT_HERE = re.compile(r"\.plan\b|224|--trtexec-times|--compare|--assert-p99|sentences\.txt|\.\.\.")
"""Part of commands that need a GPU, the model in the text, the reader's files, or a machine of known speed."""


class Command(NamedTuple):
    """A shown command: the document's name and the words after ``acm-export``."""

    document: str
    words: list[str]

    def __str__(self) -> str:
        return " ".join((self.document, *self.words))


def commands() -> list[Command]:
    """Every line of a code block that starts with ``acm-export VERB``, with its continuation lines."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = re.findall(r"^(?: {4}|\$ | {4}\$ )?acm-export ([a-z].*)$", text, re.MULTILINE)
        found += [Command(document.name, shlex.split(line, comments=True)) for line in lines]
    return found


SHOWN = commands()
QUICK = [command for command in SHOWN if command.words[0] in QUICK_VERBS and not NOT_HERE.search(str(command))]


def test_the_documents_show_commands() -> None:
    assert len(SHOWN) >= 20
    assert {command.words[0] for command in QUICK} >= {"calibrate", "latency", "set-budget"}


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_shown_commands_parse(command: Command) -> None:
    verb = main.commands[command.words[0]]
    verb.make_parser(verb.make_context("acm-export", ["--help"], resilient_parsing=True)).parse_args(command.words[1:])


@pytest.fixture(scope="session")
def replacements(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    """Folder with a tiny checkpoint, its files, a dense file and images, which replace those in the text. Read-only."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)  # as vit_files
        save_checkpoint(tiny_vit(), folder / "checkpoint", source={})
        shutil.copytree(vit_files, folder, dirs_exist_ok=True)
        write_images(folder / "images.npz", 40)
        calibrated(folder / "m.onnx", folder / "images.npz", folder / "calibrated.onnx", (0.5,), solver="uniform")

    return shared_folder(tmp_path_factory, "shown", make)


def provide(words: list[str], replacements: Path, folder: Path) -> None:
    """Put a replacement into ``folder`` for each file or checkpoint that a command reads."""
    for before, word in pairwise(words):
        path = folder / word
        if before in OUTPUTS or path.exists():
            continue
        if word.endswith(".onnx"):
            calibrates = words[0] == "calibrate"
            name = "dense" if "dense" in word else "m" if calibrates else "calibrated"
            shutil.copy(replacements / f"{name}.onnx", path)
        elif word.endswith(".npz"):
            shutil.copy(replacements / "images.npz", path)
        elif before in ("export", "--checkpoint"):
            shutil.copytree(replacements / "checkpoint", path)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow if c.words[0] in ("calibrate", "export", "latency") else ())
        for c in QUICK
    ],
    ids=str,
)
def test_shown_commands_run(
    command: Command, replacements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(command.words, replacements, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = list(command.words)
    if "--duration" in words:
        words[words.index("--duration") + 1] = "0.05"
    elif words[0] == "latency":
        words += ["--runs", "3"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
