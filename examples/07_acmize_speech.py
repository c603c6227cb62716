"""Turn a small Wav2Vec2-CTC for spoken digits and commands into an ACM model; measure word error rate by budget.

Run: ``python examples/07_acmize_speech.py --folder FOLDER``; 45 minutes on two cores, most of it for training
the teacher, which is saved in the folder. Speech is synthesised with espeak-ng (Debian: espeak-ng);
test voices occur neither in training nor in calibration. Needs the extras [demo,train] and scipy. (a) is one file with
calibrated thresholds, (c) the same file with the same learner count for every token.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from evidence import BUDGETS, InMemory, OneFile, Stages, paired, parser, print_table, write_result
from speech import (
    ACCENTS,
    PEOPLE,
    UNSEEN_PEOPLE,
    Spoken,
    batched,
    frames,
    speak,
    teacher,
    transcribed,
    word_errors,
    written,
)
from transformers import Wav2Vec2ForCTC

from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings

SETTINGS = AcmizeSettings(
    sites="ffn,o_proj", steps=(300, 200, 500), batch=16, learning_rates=(1e-3, 1e-3, 5e-4), task="ctc"
)
TEACHER_STEPS, BATCH, CALIBRATION = 3000, 30, 300


def by_length(data: Spoken) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Batch utterances of similar length, padded at the end; ``frames`` and ``texts`` are for :func:`errors`."""
    samples = [s | {"text": t} for s, t in zip(data.samples(), data.texts, strict=True)]
    samples.sort(key=lambda sample: len(sample["input_values"]))
    batches = []
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        batch = {name: tensor.numpy() for name, tensor in batched(part).items() if name != "labels"}
        batch["frames"] = np.array([frames(len(sample["input_values"])) for sample in part])
        batch["texts"] = np.array([sample["text"] for sample in part])
        batches.append(batch)
    return batches


def errors(batch: dict[str, np.ndarray[Any, Any]], outputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return word errors and words of each utterance, ``[utterances, 2]``."""
    rows = zip(batch["texts"].tolist(), outputs["logits"], batch["frames"].tolist(), strict=True)
    return np.array([word_errors(text, written(logits[:count])) for text, logits, count in rows], np.float64)


def rows_of(model: OneFile, batches: list[dict[str, np.ndarray[Any, Any]]]) -> list[dict[str, Any]]:
    """Measure (a), (c) and their paired difference in points at each budget."""
    rows = []
    for budget in BUDGETS:
        (ran_a, a), (ran_c, c) = (model.run(s, batches, errors) for s in (model.at(budget), model.same_count(budget)))
        per_word = 100 * len(a) / a[:, 1].sum()
        rows.append(
            {
                "budget": budget,
                "a": {"measured": ran_a, "word_error_rate": float(a[:, 0].sum() / a[:, 1].sum())},
                "c": {"measured": ran_c, "word_error_rate": float(c[:, 0].sum() / c[:, 1].sum())},
                "a_minus_c": asdict(paired(per_word * a[:, 0], per_word * c[:, 0])),
            }
        )
    return rows


def main() -> None:
    """Synthesise speech, train the teacher, distil, export, calibrate, measure, print, write."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--folder", type=Path, help="folder for speech, teacher and ACM model; existing ones are reused"
    )
    options = arguments.parse_args()
    torch.set_num_threads(1)
    train, unseen, steps = (40, 20, 3) if options.quick else (12_000, 1200, TEACHER_STEPS)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="acm-export-example-")))
        folder = options.folder or work
        folder.mkdir(parents=True, exist_ok=True)
        taught = speak(train, PEOPLE, 1, folder / "train.npz")
        tests = speak(unseen, UNSEEN_PEOPLE, 2, folder / "test.npz")
        dense = teacher(folder / "teacher", taught, steps)
        heard = transcribed(Wav2Vec2ForCTC.from_pretrained(dense).eval(), tests)
        pairs = np.array([word_errors(*pair) for pair in zip(tests.texts, heard, strict=True)])
        dense_rate = float(pairs[:, 0].sum() / pairs[:, 1].sum())
        settings = AcmizeSettings(steps=(2, 2, 2), batch=4, task="ctc") if options.quick else SETTINGS
        samples = taught.samples()
        held_out, rest = InMemory("speech, held out", samples[: train // 50 or 1]), samples[train // 50 or 1 :]
        if not (folder / "speech-acm" / "config.json").is_file():
            run_distillation(
                load_checkpoint(dense), InMemory("speech", rest), held_out, settings, folder / "speech-acm", Stages()
            )
        sounds = sorted(taught.first(CALIBRATION).samples(), key=lambda sample: len(sample["input_values"]))
        voices, budgets = InMemory("training voices", sounds), sorted(BUDGETS)[:-1]
        model = OneFile(folder / "speech-acm", voices, budgets, work, batch=BATCH, probe_samples=60)
        rows = rows_of(model, by_length(tests))
    print_table(
        f"word error rate on {unseen} utterances of unseen voices; dense {dense_rate:.1%}",
        ("β", "(a)", "(c)", "(a)-(c) in points, 95%"),
        [
            (
                f"{r['budget']:.2f}",
                *(f"{r[k]['word_error_rate']:.1%}" for k in "ac"),
                "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**r["a_minus_c"]),
            )
            for r in rows
        ],
    )
    payload = {
        "utterances": {"training": train, "calibration": min(train, CALIBRATION), "unseen": unseen},
        "voices": PEOPLE,
        "unseen_voices": UNSEEN_PEOPLE,
        "accents": ACCENTS,
        "settings": asdict(settings),
        "teacher_steps": steps,
        "dense_word_error_rate": dense_rate,
        "rows": rows,
    }
    write_result("acmize_speech", payload, options, program="examples/07_acmize_speech.py")


if __name__ == "__main__":
    main()
