"""Helpers of example 07: digits and commands spoken by espeak-ng, and a small Wav2Vec2-CTC that transcribes them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave
from dataclasses import dataclass
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

try:
    from scipy.signal import resample_poly
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install scipy")

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RATE = 8000
KERNELS, STRIDES = (160, 4, 4), (40, 2, 2)
FFN = 256
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "yes", "no", "up", "down",
         "left", "right", "on", "off", "stop", "go")  # fmt: skip  # a list of names
LETTERS = ["<pad>", "|", *sorted(set("".join(WORDS)))]
PEOPLE = (
    "Alicia", "Andrea", "Andy", "Annie", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco",
    "Michael", "Mike", "Nguyen", "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm", "Tweaky", "adam", "anika",
    "announcer", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "edward2",
    "f1", "f2", "f3", "gustave", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3",
    "klatt4", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "marcelo", "max", "michel", "miguel", "norbert", "pablo",
    "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "travis", "victor", "zac", "grandma", "grandpa",
)  # fmt: skip  # a list of names
UNSEEN_PEOPLE = ("m7", "m8", "f4", "f5", "Alex", "Denis", "Mario", "steph")
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
_UP, _DOWN = 160, 441  # espeak-ng speaks at 22,050 Hz
_PEAK_RATE, _NOISE = 1e-3, 0.02


@dataclass(frozen=True)
class Spoken:
    """Utterances.

    Args:
        sounds: Waveforms, each float32 ``[samples]`` with mean 0 and variance 1.
        texts: Text of each utterance.
        voices: Voice of each utterance.
    """

    sounds: tuple[np.ndarray[Any, Any], ...]
    texts: tuple[str, ...]
    voices: tuple[str, ...]

    def first(self, count: int) -> Spoken:
        """Return the first ``count`` utterances."""
        return Spoken(self.sounds[:count], self.texts[:count], self.voices[:count])

    def samples(self) -> list[dict[str, Any]]:
        """Return the samples that ``acmize`` takes."""
        return [
            {"input_values": sound, "labels": spelled(text)}
            for sound, text in zip(self.sounds, self.texts, strict=True)
        ]


def speak(count: int, people: Sequence[str], seed: int, file: Path) -> Spoken:
    """Synthesise utterances of two to four words in random voices, accents, speeds and pitches, and save them.

    Args:
        count: Number of utterances.
        people: Variants of espeak-ng's voices.
        seed: Seed of the random choices.
        file: ``.npz`` file for the utterances; an existing file is reused.
    """
    if not file.is_file():
        if which("espeak-ng") is None:
            raise SystemExit("espeak-ng is not installed; on Debian, run: apt-get install espeak-ng")
        rng = np.random.default_rng(seed)
        rows = [_utterance(rng, people) for _ in range(count)]
        sounds, texts, voices = zip(*rows, strict=True)
        lengths = [len(sound) for sound in sounds]
        np.savez(file, sounds=np.concatenate(sounds), lengths=lengths, texts=texts, voices=voices)
    with np.load(file) as kept:
        whole = kept["sounds"].astype(np.float32)
        ends = np.cumsum(kept["lengths"])[:-1]
        texts, voices = kept["texts"].tolist(), kept["voices"].tolist()
    return Spoken(tuple(_normalised(sound) for sound in np.split(whole, ends)), tuple(texts), tuple(voices))


def _utterance(rng: np.random.Generator, people: Sequence[str]) -> tuple[np.ndarray[Any, Any], str, str]:
    text = " ".join(rng.choice(WORDS, rng.integers(2, 5)))
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(people)}"
    speed, pitch = str(rng.integers(120, 211)), str(rng.integers(20, 81))
    command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(spoken)) as sound:
        frames = np.frombuffer(sound.readframes(len(spoken)), "<i2")
    return resample_poly(frames.astype(np.float32), _UP, _DOWN).astype(np.float16), text, voice


def _normalised(sound: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7))


def spelled(text: str) -> np.ndarray[Any, Any]:
    """Return the labels of a text, int64 ``[letters]``."""
    return np.array([LETTERS.index("|" if letter == " " else letter) for letter in text], np.int64)


def written(logits: np.ndarray[Any, Any]) -> str:
    """Decode the best path of CTC logits ``[frames, letters]``, without repetitions and blanks."""
    best = logits.argmax(-1)
    kept = best[np.concatenate(([True], best[1:] != best[:-1])) & (best != 0)]
    return "".join(LETTERS[index] for index in kept).replace("|", " ").strip()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the edit distance in words between two texts, and the number of words of the first."""
    right, heard = reference.split(), hypothesis.split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(right, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1], len(right)


def fresh_model() -> Wav2Vec2ForCTC:
    """Make 4 layers of width 128 on 20 ms frames; the first convolution starts as a bank of band-pass filters."""
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=FFN,
        conv_dim=(128, 128, 128),
        conv_kernel=KERNELS,
        conv_stride=STRIDES,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=8,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        pad_token_id=0,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
    )
    model = Wav2Vec2ForCTC(config)
    first: Any = model.wav2vec2.feature_extractor.conv_layers[0].conv
    mel = torch.linspace(_mel(80.0), _mel(3800.0), 64)
    frequencies = 700 * (10 ** (mel / 2595) - 1)
    time = torch.arange(160) / RATE
    window = torch.hann_window(160, periodic=False) / 40
    phase = 2 * torch.pi * frequencies[:, None] * time
    with torch.no_grad():
        first.weight.copy_(torch.cat([phase.cos() * window, phase.sin() * window]).unsqueeze(1) * 2)
        first.bias.zero_()
    return model


def _mel(frequency: float) -> float:
    return float(2595 * np.log10(1 + frequency / 700))


def batched(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return ``input_values``, ``attention_mask`` and ``labels``, padded at the end."""
    sounds = [torch.from_numpy(sample["input_values"]) for sample in samples]
    labels = [torch.from_numpy(sample["labels"]) for sample in samples]
    masks = [torch.ones(len(sound), dtype=torch.long) for sound in sounds]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_values": pad(sounds, batch_first=True),
        "attention_mask": pad(masks, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


def train(model: Wav2Vec2ForCTC, data: Spoken, steps: int, batch: int = 16) -> None:
    """Train CTC from scratch with AdamW and one learning-rate cycle; print the loss."""
    samples = data.samples()
    optimizer = torch.optim.AdamW(model.parameters(), _PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps, pct_start=0.15)
    order = np.random.default_rng(0)
    model.train()
    for step in range(steps):
        inputs = batched([samples[i] for i in order.choice(len(samples), batch, replace=False)])
        inputs["input_values"] += _NOISE * torch.randn_like(inputs["input_values"])
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()


def teacher(folder: Path, data: Spoken, steps: int) -> Path:
    """Train a model and save it in ``folder``, unless it exists; return the folder."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        model = fresh_model()
        train(model, data, steps)
        model.save_pretrained(folder)
        (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}) + "\n")
    return folder


@torch.no_grad()
def transcribed(model: Wav2Vec2ForCTC, data: Spoken, batch: int = 64) -> list[str]:
    """Return a model's transcript of each utterance."""
    texts, samples = [], data.samples()
    for start in range(0, len(samples), batch):
        inputs = batched(samples[start : start + batch])
        del inputs["labels"]
        counts = [frames(int(length)) for length in inputs["attention_mask"].sum(1)]
        logits = model(**inputs).logits.numpy()
        texts += [written(row[:count]) for row, count in zip(logits, counts, strict=True)]
    return texts


def frames(samples: int) -> int:
    """Return the number of tokens of a sound."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples
