"""Choose tile sizes on a GPU and write them into the tile table (plugins/kernels/tiles.json), with the measurement.

For each range of token counts every candidate tile of GEMM 1 runs beside the table's present choice, then every
candidate of GEMM 2; the fastest of each is kept where it is faster by more than the noise. Candidates that do not
compile or need more shared memory than the GPU has are left out. Afterwards the kernel pack has to be made again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import parser, print_table
from device_timing import Rotation, device_facts, interleaved
from kernels import Case, case

from acm_export.files import move_into_place, staging_folder
from acm_export.plugins.kernels import launch, plan
from acm_export.plugins.kernels.tiles import SCHEMA, Entry, Tile, entries, select

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Range = tuple[int, "int | None"]

RANGES: tuple[Range, ...] = ((8, 16), (48, 64), (197, 512), (25216, None))
"""Tokens to measure at, and the ``max_tokens`` of the entry that the outcome is for."""

NOISE = 0.02
"""A candidate replaces the present choice only where it is faster by more than this."""

_ROWS = {16: (16,), 64: (16, 32, 64), 512: (32, 64, 128), None: (64, 128)}


def candidates(max_tokens: int | None) -> Iterator[Tile]:
    """Tiles to try for a range of token counts."""
    for rows, columns, k, warps, stages in product(
        _ROWS[max_tokens], (32, 64, 128, 256), (32, 64, 128), (4, 8), (3, 4)
    ):
        sums = rows * columns // (32 * warps)
        if sums > 128 or rows * columns < 512:
            continue
        yield Tile(rows, columns, k, warps, stages)
        if warps == 8 and sums <= 64:
            yield Tile(rows, columns, k, warps, stages, registers=128)


def runnable(given: Case, entry: Entry) -> Rotation | None:
    """The op with these tiles, or None where they do not run on this GPU or give wrong values."""
    calls = [lambda x=x, z=z: _run(given, entry, x, z) for x, z in zip(given.tokens, given.logits, strict=True)]
    try:
        y, expected = (
            _run(given, entry, given.tokens[0], given.logits[0]),
            given.layer.run(given.tokens[0], given.logits[0])[0],
        )
        torch.cuda.synchronize()
        if not torch.allclose(y.float(), expected.float(), rtol=0.05, atol=0.05):
            return None
        return Rotation(calls)
    except Exception as error:  # noqa: BLE001  compilers and drivers raise what they like
        print(f"  {entry.up} {entry.down}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
        return None


def _run(given: Case, entry: Entry, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    layer = given.layer
    weights = (layer.thresholds, layer.w1, layer.b1, layer.w2, layer.b2)
    return launch.gated_learners(x, logits, *weights, layer.spec.signature, entry=entry)[0]


def best(given: Case, present: Entry, tried: Sequence[Entry], rounds: int) -> tuple[Entry, float]:
    """The fastest of some entries and its time ÷ that of the present one."""
    baseline = runnable(given, present)
    if baseline is None:
        sys.exit(f"error: the present entry does not run here: {present}")
    rotations = {index: r for index, entry in enumerate(tried) if (r := runnable(given, entry))}
    coarse = interleaved(rotations, baseline, rounds=1, block_ms=2.0)
    finalists = sorted(coarse, key=lambda index: coarse[index].ratio)[:5]
    fine = interleaved({index: rotations[index] for index in finalists}, baseline, rounds=rounds)
    index = min(fine, key=lambda i: fine[i].ratio, default=None)
    if index is None or fine[index].ratio > 1 - NOISE:
        return present, 1.0
    return tried[index], fine[index].ratio


def tune(
    arch: str, sizes: tuple[int, int, int], ranges: Sequence[Range], rounds: int
) -> list[tuple[Entry, Entry, float]]:
    """For each range: present entry, chosen entry, time ÷ time."""
    outcome = []
    for tokens, max_tokens in ranges:
        given = case(sizes, tokens, 0.5)
        present = select(arch, "half", plan.Problem(tokens, *sizes, 0, 2), aligned=True)
        ups = [replace(present, up=t, down=_down(present.down, t)) for t in candidates(max_tokens)]
        chosen, up_ratio = best(given, present, ups, rounds)
        downs = [replace(chosen, down=t) for t in candidates(max_tokens) if chosen.up.block_m % t.block_m == 0]
        chosen, down_ratio = best(given, chosen, downs, rounds)
        outcome.append((present, replace(chosen, max_tokens=max_tokens, archs=(arch,)), up_ratio * down_ratio))
    return outcome


def _down(tile: Tile, up: Tile) -> Tile:
    """GEMM 2's tile with rows that divide those of GEMM 1."""
    return replace(tile, block_m=min(tile.block_m, up.block_m))


def merged(outcome: Sequence[tuple[Entry, Entry, float]], arch: str, measured_on: str) -> list[Entry]:
    """The table with the outcome in place of what this architecture used before."""
    tuned = [
        replace(chosen, reason=f"Measured on {measured_on}: {ratio:.2f} of the time of the entry before.")
        for present, chosen, ratio in outcome if chosen.up != present.up or chosen.down != present.down
    ]  # fmt: skip
    ranges = {entry.max_tokens for entry in tuned}
    kept = []
    for entry in entries():
        if arch in entry.archs and entry.precision == "half" and entry.alignment > 1 and entry.max_tokens in ranges:
            if others := tuple(a for a in entry.archs if a != arch):
                kept.append(replace(entry, archs=others))
            kept += [t for t in tuned if t.max_tokens == entry.max_tokens]
        else:
            kept.append(entry)
    return kept


def write_table(table: Sequence[Entry], path: Path) -> None:
    """Write the table, one entry a line."""
    rows = ",\n".join(json.dumps(asdict(entry)) for entry in table)
    with staging_folder(path) as staging:
        staged = staging / path.name
        staged.write_text(f'{{"schema": {SCHEMA}, "entries": [\n{rows}\n]}}\n')
        move_into_place(staged, path)


def _short(tile: Tile) -> str:
    sizes = f"{tile.block_m}x{tile.block_n}x{tile.block_k}"
    return f"{sizes}, {tile.warps} warps, {tile.stages} stages, {tile.registers or 'any'} registers"


def main() -> None:
    """Tune for the GPU at hand."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--tokens",
        type=int,
        choices=[tokens for tokens, _ in RANGES],
        help="only the range of this number",
    )
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: tiles are tuned on a GPU, and PyTorch sees none")
    arch, facts = launch.architecture(torch.device("cuda")), device_facts()
    with torch.no_grad():
        ranges = [r for r in RANGES if options.tokens in (None, r[0])]
        outcome = tune(arch, (768, 768, 4), ranges, 3 if options.quick else 15)
    print_table(
        f"tiles for {arch}, bf16, D, h, N = 768, 768, 4", ["up to tokens", "GEMM 1", "GEMM 2", "÷ before"],
        [[str(e.max_tokens or "any"), _short(e.up), _short(e.down), f"{ratio:.3f}"] for _, e, ratio in outcome],
    )  # fmt: skip
    measured_on = f"{facts['gpu']}, Triton {facts['triton']}, {datetime.now(timezone.utc):%Y-%m-%d}"
    path = Path(str(resources.files("acm_export.plugins.kernels"))) / "tiles.json"
    write_table(merged(outcome, arch, measured_on), path)
    print(f"wrote {path}; make the pack again: python -m acm_export.plugins.kernels.compile")


if __name__ == "__main__":
    main()
