"""Try tiles on a GPU: compile many at a time, then run, check, capture and time one at a time."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import TimeoutError as NotCompiledError
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import torch
from device_timing import DeviceTiming, Rotation, interleaved
from kernel_cases import SETS, case
from tile_candidates import candidates, describe
from torch.nn import functional as F  # noqa: N812

from acm_export.modules import ACMLayer, ACMSpec
from acm_export.plugins.kernels import launch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from common import ResultFile

    from acm_export.plugins.kernels.tiles import Entry

SIZES = (768, 768, 4)
"""D, h, N of ViT-B/16."""

SHARE = 0.5
"""Mean of count / N."""

COMPILE_SECONDS = 40.0
"""Seconds that a token count waits for its candidates; those not compiled by then are skipped."""

TOLERANCE = 3e-2
"""Largest error of bfloat16 relative to the largest value (docs/op.md, "Output")."""

LAYERS_OF_FEW_TOKENS = 12
"""Number of layers that alternate below 1,000 tokens. Their weights are twice the L2 cache of an H100, so that weights
come from memory, as they do in a model whose layers follow each other."""


class DeviceLostError(RuntimeError):
    """The GPU refuses all further work of this process."""


@dataclass(frozen=True)
class Trial:
    """One candidate at one token count.

    Args:
        tokens: Token count.
        role: ``present``, ``down``, ``up``, or ``final`` for the repetition with more rounds.
        entry: The tiles.
        state: ``measured``, ``failed`` or ``not tried``.
        reason: Why it was not timed.
        first_run_s: Seconds of the first run, which loads its kernels from the cache or compiles them.
        timing: Time of the whole op without its gate, compared with the current entry.
    """

    tokens: int
    role: str
    entry: Entry
    state: str
    reason: str = ""
    first_run_s: float | None = None
    timing: DeviceTiming | None = None

    def to_json(self) -> dict[str, Any]:
        """The trial for the result file, without the fields that all candidates share."""
        content = asdict(self)
        entry = content.pop("entry")
        return content | {"up": entry["up"], "down": entry["down"], "split": entry["split"]}


class Workload:
    """Alternating calls of the op at one token count, at half the learners.

    Args:
        tokens: Token count.
        device: Device of all tensors.
    """

    def __init__(self, tokens: int, device: str = "cuda") -> None:
        layers = LAYERS_OF_FEW_TOKENS if tokens < 1000 else 1
        cases = [case(SIZES, tokens, 0.5, seed, device=device) for seed in range(layers)]
        turns = [(cases[i % layers], i % SETS) for i in range(max(layers, SETS))]
        self.calls = [(given.layer, given.tokens[i], given.logits[i]) for given, i in turns]

    def run(self, entry: Entry, call: int) -> torch.Tensor:
        """Y of one call with these tiles."""
        layer, x, logits = self.calls[call]
        weights = (layer.thresholds, layer.w1, layer.b1, layer.w2, layer.b2)
        return launch.gated_learners(x, logits, *weights, layer.spec.signature, entry=entry)[0]

    def expected(self) -> torch.Tensor:
        """Y of the first call by PyTorch in float32, with hidden values rounded as the op rounds them."""
        layer, x, logits = self.calls[0]
        counts = logits.argmax(-1)
        hidden = F.gelu(x.float() @ layer.w1.float() + layer.b1.float()).to(x.dtype).float()
        learner = torch.arange(hidden.shape[1], device=x.device) // layer.spec.hidden_dim
        return (hidden * (counts[:, None] > learner)) @ layer.w2.float() + layer.b2.float()[counts]

    def check(self, y: torch.Tensor) -> None:
        """Compare y of the first call with PyTorch.

        Raises:
            ValueError: The values are wrong.
        """
        expected = self.expected()
        error = float((y.float() - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCE:
            raise ValueError(f"wrong values: error {error:.2g} of the largest value; at most {TOLERANCE} is allowed")

    def capture(self, entry: Entry) -> Rotation:
        """All calls in one graph, so that they share one pool of memory."""
        return Rotation([lambda: [self.run(entry, call) for call in range(len(self.calls))]])


@contextmanager
def compiling_only() -> Iterator[None]:
    """Within the block, a launch compiles its kernel into Triton's cache and does not run it."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_only(self: object, *arguments: object, **options: object) -> object:
        return run(self, *arguments, **(options | {"warmup": True}))

    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run


def compile_entry(entry: Entry, tokens: int, device: str = "cuda") -> str:
    """Compile the kernels of an entry into Triton's cache, in a process of the pool.

    Returns:
        Why it failed, or an empty text.
    """
    model_dim, hidden_dim, learners = SIZES
    try:
        layer = ACMLayer(ACMSpec(model_dim=model_dim, num_learners=learners, hidden_dim=hidden_dim))
        layer = layer.to(device).bfloat16()
        x = torch.empty(tokens, model_dim, device=device, dtype=torch.bfloat16)
        logits = torch.empty(tokens, learners + 1, device=device)
        weights = (layer.thresholds, layer.w1, layer.b1, layer.w2, layer.b2)
        with torch.no_grad(), compiling_only():
            launch.gated_learners(x, logits, *weights, layer.spec.signature, entry=entry)
    except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
        return reason_of(error)
    return ""


def reason_of(error: Exception) -> str:
    """Kind and text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class Compilations:
    """All candidates, compiled by one process per core; a process that dies loses only its current candidate.

    Args:
        presents: Current entry of each token count, in the order of use.
    """

    def __init__(self, presents: Mapping[int, Entry]) -> None:
        self._pool = get_context("spawn").Pool(max(1, (os.cpu_count() or 1) - 1))
        self._stopped = False
        self._results = {
            self._key(tokens, role, entry): self._pool.apply_async(compile_entry, (entry, tokens))
            for tokens, present in presents.items()
            for role, entry in candidates(present, tokens)
        }

    @staticmethod
    def _key(tokens: int, role: str, entry: Entry) -> tuple[object, ...]:
        """The kernel of the role: the tile of the other GEMM is compiled for another role."""
        parts = {"up": (entry.up,), "down": (entry.down, entry.split)}
        return tokens, role, *parts.get(role, (entry,))

    def reason(self, tokens: int, role: str, entry: Entry, until: float) -> str:
        """Reason why a candidate was not compiled, or empty; waits at most until ``until`` (``time.monotonic()``).

        If even a current entry was not compiled, processes do not work here: from then on no candidate is ruled out,
        and launches compile their kernels.
        """
        result = self._results.get(self._key(tokens, role, entry))
        if self._stopped or result is None:
            return ""
        try:
            reason = str(result.get(max(0.0, until - time.monotonic())))
        except NotCompiledError:
            reason = f"not compiled within {COMPILE_SECONDS:.0f} s"
        if reason and role == "present":
            print(f"{tokens} tokens: the present entry was not compiled beforehand: {reason}", flush=True)
            self.stop()
            return ""
        return reason

    def stop(self) -> None:
        """Kill the processes."""
        self._stopped = True
        self._pool.terminate()


class Tuner:
    """Times the candidates of one token count, one at a time.

    Args:
        result: Result file, rewritten after each trial.
        trials: Trials so far; new ones are appended.
        tokens: Token count.
        compilations: Compilations of all candidates.
        deadline: Time after which no candidate is tried (``time.monotonic()``).
        rounds: Timing rounds of each candidate; the role ``final`` gets five times as many.
    """

    def __init__(
        self,
        result: ResultFile,
        trials: list[Trial],
        tokens: int,
        compilations: Compilations,
        deadline: float,
        rounds: int,
    ) -> None:
        self._result, self._trials, self._tokens, self._rounds = result, trials, tokens, rounds
        self._compilations, self._deadline = compilations, deadline
        self._compile_until = min(deadline, time.monotonic() + COMPILE_SECONDS)
        self._workload = Workload(tokens)
        self._baseline: Rotation | None = None

    def measure(self, role: str, entry: Entry) -> float | None:
        """Try a candidate, record the result, and free its memory (tile_candidates.py, ``Measure``).

        Raises:
            DeviceLostError: The GPU no longer works for this process.
        """
        trial = self._trial(role, entry)
        self._trials.append(trial)
        self._result.add("candidates", [t.to_json() for t in self._trials])
        shown = f"{trial.timing.us:.1f} µs, {trial.timing.ratio:.3f}" if trial.timing else trial.reason
        print(f"{self._tokens} tokens, {role}: {describe(entry)}: {shown}", flush=True)
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLostError(reason_of(error)) from error
        return trial.timing.ratio if trial.timing else None

    def _trial(self, role: str, entry: Entry) -> Trial:
        if role in ("up", "down") and time.monotonic() > self._deadline:
            return Trial(self._tokens, role, entry, "not tried", "the time given with --seconds was used up")
        if reason := self._compilations.reason(self._tokens, role, entry, self._compile_until):
            return Trial(self._tokens, role, entry, "failed", reason)
        start = time.monotonic()
        try:
            self._workload.check(self._workload.run(entry, 0))
            first_run_s = time.monotonic() - start
            rotation = self._workload.capture(entry)
            timing = self._timing(rotation, self._rounds * (5 if role == "final" else 1))
        except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
            return Trial(self._tokens, role, entry, "failed", reason_of(error))
        self._baseline = self._baseline or rotation
        return Trial(self._tokens, role, entry, "measured", "", first_run_s, timing)

    def _timing(self, rotation: Rotation, rounds: int) -> DeviceTiming:
        calls = len(self._workload.calls)
        timing = interleaved({0: rotation}, self._baseline or rotation, rounds=rounds)[0]
        return replace(timing, us=timing.us / calls, baseline_us=timing.baseline_us / calls)
