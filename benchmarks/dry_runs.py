"""Measure what planning costs for the models that people bring, and which share of their FLOPs a budget steers.

What: for every model of :data:`MODELS`, in its usual size with random weights, ``acm-export acmize MODEL --dry-run``:
seconds, peak memory of the process, sites by kind, and the share of the whole model's FLOPs that is in learners. For
the models of :data:`SURGERY`, ``acmize`` without a training step: statistics, learners from the teacher's neurons,
check, quality and checkpoint; compare its peak memory with twice the weights in float32 (teacher and student).

How: one process writes the checkpoint folder in float16 to the system's temporary folder (``TMPDIR``), and another runs
the command. Its peak is the largest resident size (``getrusage``), which includes pages of the mapped weights. The
seconds include imports. Folders are removed.

Run: ``python benchmarks/dry_runs.py [--models 'bert;gpt2']``
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, print_table, write_result

_TEXT = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "distilbert": "DistilBertModel",
}
_TEXT |= {"mpnet": "MPNetModel", "electra": "ElectraModel", "modernbert": "ModernBertModel"}
_TEXT |= {"data2vec-text": "Data2VecTextModel"}
_VISION = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "beit": "BeitForImageClassification",
}
_VISION |= {"dinov2": "Dinov2Model", "swin": "SwinForImageClassification", "vit_mae": "ViTMAEModel"}
_VISION |= {"data2vec-vision": "Data2VecVisionModel", "clip_vision_model": "CLIPVisionModel"}
_VISION |= {"siglip_vision_model": "SiglipVisionModel", "depth_anything": "DepthAnythingForDepthEstimation"}
_AUDIO = {
    "wav2vec2": "Wav2Vec2ForCTC",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
}
_AUDIO |= {"audio-spectrogram-transformer": "ASTForAudioClassification", "whisper": "WhisperForConditionalGeneration"}
_TOWERS = {"clip_text_model": "CLIPTextModel", "siglip_text_model": "SiglipTextModel"}
_LAYERS = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
_QWEN = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Model:
    """A model to plan: name in the table, ``model_type``, architecture, and settings that differ from the defaults."""

    name: str
    model_type: str
    architecture: str
    settings: dict[str, Any]


MODELS = (
    *(
        Model(kind, kind, name, {})
        for kind, name in (_VISION | _TEXT | _TOWERS | _AUDIO | {"gpt2": "GPT2LMHeadModel"}).items()
    ),
    Model("dinov2-giant", "dinov2", "Dinov2Model", _LAYERS | {"num_hidden_layers": 12, "use_swiglu_ffn": True}),
    Model("vit-large", "vit", "ViTForImageClassification", _LAYERS),
    Model("qwen2, 1.5B", "qwen2", "Qwen2ForCausalLM", _QWEN),
    Model(
        "llama, 1.1B",
        "llama",
        "LlamaForCausalLM",
        _QWEN
        | {
            "num_hidden_layers": 22,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "vocab_size": 32000,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
    ),
)


SURGERY = ("vit-large", "qwen2, 1.5B")
"""Models of which ``acmize`` without training is measured as well."""


@dataclass(frozen=True)
class Row:
    """One dry run; seconds, bytes, and FLOPs of one example input."""

    name: str
    architecture: str
    parameters: int
    weights_bytes: int
    seconds: float
    peak_bytes: int
    sites: dict[str, int]
    inputs: dict[str, list[int]]
    dense_flops: int
    steered_share: float


def write_folder(model: Model, folder: Path) -> None:
    """In a process of its own: save the model with random weights in float16."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    config = transformers.AutoConfig.for_model(model.model_type, **model.settings)
    made: Any = getattr(transformers, model.architecture)
    with no_init_weights():
        network = made(config).half()
    network.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02, generator=generator)
    network.save_pretrained(folder)


@dataclass(frozen=True)
class Surgery:
    """One ``acmize`` without training; seconds and bytes."""

    name: str
    parameters: int
    float32_bytes: int
    seconds: float
    peak_bytes: int
    ratio: float


def run(arguments: list[str]) -> tuple[str, float, int]:
    """Run a verb in a process of its own; returns its output, seconds and peak memory in bytes."""
    command = [sys.executable, "-m", "acm_export", *arguments, "--json"]
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        printed.seek(0)
        output = printed.read()
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return output, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def dry_run(model: Model, folder: Path) -> Row:
    """Plan a model, and read the result."""
    output, seconds, peak = run(["acmize", str(folder), "--dry-run"])
    plan = json.loads(output)
    acm, dense = plan["flops"]["acm"], plan["flops"]["dense"]
    return Row(
        name=model.name,
        architecture=model.architecture,
        parameters=plan["parameters"]["dense"],
        weights_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        seconds=seconds,
        peak_bytes=peak,
        sites=dict(Counter(site["kind"] for site in plan["sites"])),
        inputs=plan["inputs"],
        dense_flops=sum(dense.values()),
        steered_share=acm["learners"] / sum(acm.values()),
    )


def surgery(model: Model, row: Row, folder: Path) -> Surgery:
    """Make an ACM model without a training step."""
    shapes = {name: (5, *shape[1:]) for name, shape in row.inputs.items()}
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: random.integers(1, 1000, shape) if name == "input_ids" else random.standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }
    np.savez(folder / "data.npz", **arrays)
    options = ["--data", str(folder / "data.npz"), "-o", str(folder / "acm"), "--steps", "0,0,0", "--batch", "1"]
    _, seconds, peak = run(["acmize", str(folder), *options, "--task", "distil"])
    weights = 4 * row.parameters
    return Surgery(model.name, row.parameters, weights, seconds, peak, peak / weights)


def main() -> None:
    """Plan every model, print a table, and write the result."""
    options = parser(__doc__ or "")
    options.add_argument("--models", help="names of models, separated by semicolons; all by default")
    options.add_argument("--write", nargs=2, metavar=("NAME", "FOLDER"), help="only write this model's folder")
    arguments = options.parse_args()
    by_name = {model.name: model for model in MODELS}
    if arguments.write:
        write_folder(by_name[arguments.write[0]], Path(arguments.write[1]))
        return
    rows: list[Row] = []
    operations: list[Surgery] = []
    for name in arguments.models.split(";") if arguments.models else by_name:
        with tempfile.TemporaryDirectory(prefix="dry-run-") as folder:
            subprocess.run([sys.executable, __file__, "--write", name, folder], check=True)
            rows.append(dry_run(by_name[name], Path(folder)))
            if name in SURGERY:
                operations.append(surgery(by_name[name], rows[-1], Path(folder)))
        content = {"rows": [asdict(row) for row in rows], "surgery": [asdict(item) for item in operations]}
        write_result("dry_runs", content, arguments)
    print_table("acmize --dry-run", COLUMNS, [cells(row) for row in rows])
    columns = ("model", "seconds", "peak memory ÷ weights in float32")
    table = [(item.name, f"{item.seconds:.0f}", f"{item.ratio:.2f}") for item in operations]
    print_table("acmize without training", columns, table)


COLUMNS = ("model", "parameters", "seconds", "peak ÷ weights", "sites", "steered")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row.name,
        f"{row.parameters / 1e6:.0f} M",
        f"{row.seconds:.1f}",
        f"{row.peak_bytes / row.weights_bytes:.2f}",
        ", ".join(f"{count} {kind}" for kind, count in row.sites.items()),
        f"{row.steered_share:.2f}",
    )


if __name__ == "__main__":
    main()
