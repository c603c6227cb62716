"""Choose tile sizes on a GPU: time a fixed list of tiles for each GEMM and token count, and write a tile table.

All candidates are compiled first, on all cores, into Triton's cache. Then they are tried one at a time: run once and
compared with PyTorch, captured, timed against the current entry, freed. A candidate that fails is recorded with the
reason. First GEMM 2 is tuned with the current tile of GEMM 1, then GEMM 1 with the fastest GEMM 2 that fits; the best
three pairs are timed again. ``OUTPUT/DEVICE/tiles.json`` is the package's table with the changed entries, and
``--install`` copies it into the package. Afterwards compile the kernel pack again.

    python benchmarks/tune_kernels.py --device h100 --seconds 150
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from common import ResultFile, parser, print_table
from device_timing import device_facts
from kernel_cases import choose
from tile_candidates import TOKENS, UPS, describe, search
from tile_trials import SHARE, SIZES, Compilations, DeviceLostError, Trial, Tuner, reason_of

from acm_export.base.files import write_text
from acm_export.plugins.kernels import launch, plan
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import Entry, parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence


def merged(table: Sequence[Entry], chosen: Mapping[Entry, Entry], arch: str) -> list[Entry]:
    """The table with new entries for one architecture.

    Args:
        table: Current table.
        chosen: New entry by current entry; other architectures keep the current one.
        arch: ``sm_90`` and so on.
    """
    rows: list[Entry] = []
    for entry in table:
        if (new := chosen.get(entry)) is None:
            rows.append(entry)
            continue
        if others := tuple(a for a in entry.archs if a != arch):
            rows.append(replace(entry, archs=others))
        rows.append(replace(new, archs=(arch,)))
    return rows


def table_text(content: Mapping[str, Any], table: Sequence[Entry]) -> str:
    """A tile table as JSON, one entry a line, with everything else as in ``content``."""
    rows = ",\n".join(json.dumps(asdict(entry)) for entry in table)
    rest = json.dumps({key: value for key, value in content.items() if key != "entries"})
    return f'{rest.removesuffix("}")}, "entries": [\n{rows}\n]}}\n'


def tune(options: argparse.Namespace, result: ResultFile, trials: list[Trial]) -> tuple[dict[Entry, Entry], list[str]]:
    """Tune every requested token count and write the table after each.

    Args:
        options: Parsed command line.
        result: Result file, rewritten after each measurement.
        trials: Trials so far; new ones are appended.

    Returns:
        New entry by current entry, where one is faster; and why token counts were given up.
    """
    deadline = time.monotonic() + options.seconds
    arch, facts = launch.architecture(torch.device("cuda")), device_facts()
    result.add_all({"device": facts, "sizes": SIZES, "share": SHARE, "seconds": options.seconds})
    plan.ROWS = max(plan.ROWS, *(sizes.block_m for tiles in UPS.values() for sizes in tiles))
    content = json.loads(_package_table().read_text())
    table = parse(content)
    presents: dict[int, Entry] = {}
    for tokens in options.tokens or TOKENS:
        present = choose(table, arch, Problem(tokens, *SIZES, 0, 2))
        if present not in presents.values():
            presents[tokens] = present
    compilations = Compilations(presents)
    chosen: dict[Entry, Entry] = {}
    stopped: list[str] = []
    try:
        for tokens, present in presents.items():
            try:
                tuner = Tuner(result, trials, tokens, compilations, deadline, 1 if options.quick else 3)
                best = search(present, tokens, tuner.measure)
            except Exception as error:  # noqa: BLE001  the other token counts still run
                stopped.append(f"{tokens} tokens: {reason_of(error)}")
                result.add("stopped", stopped)
                print(stopped[-1], flush=True)
                if isinstance(error, DeviceLostError):
                    break
                continue
            if best != present:
                chosen[present] = replace(best, reason=reason(best, trials, facts))
            write_text(table_text(content, merged(table, chosen, arch)), _table_path(result))
            print(f"wrote {_table_path(result)}", flush=True)
    finally:
        compilations.stop()
    return chosen, stopped


def reason(entry: Entry, trials: Sequence[Trial], facts: Mapping[str, object]) -> str:
    """The measurement that chose an entry, for the table.

    Args:
        entry: Entry that was measured in the role ``final``.
        trials: All trials so far.
        facts: Description of the GPU (device_timing.py, ``device_facts``).
    """
    tokens, timing = next((t.tokens, t.timing) for t in reversed(trials) if t.entry == entry and t.timing)
    worked = any(t.role == "present" and t.tokens == tokens and t.timing for t in trials)
    beside = f"{timing.ratio:.2f} of the time of the entry before" if worked else "the entry before does not run"
    return (
        f"Measured on {facts['gpu']}, Triton {facts['triton']}, {datetime.now(timezone.utc):%Y-%m-%d}: "
        f"{timing.us:.1f} µs at {tokens} tokens and half the learners; {beside}."
    )


def _package_table() -> Path:
    return Path(str(resources.files("acm_export.plugins.kernels"))) / "tiles.json"


def _table_path(result: ResultFile) -> Path:
    return result.path.with_name(result.path.name.replace("tune_kernels", "tiles"))


def main() -> None:
    """Tune for this GPU; exit code 1 if a token count could not be tuned."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--tokens", type=int, nargs="+", choices=TOKENS, help="only these token counts")
    arguments.add_argument("--seconds", type=float, default=150, help="time for trying candidates (%(default)s)")
    arguments.add_argument("--install", action="store_true", help="copy the new table into the package")
    options = arguments.parse_args()
    if options.quick and options.install:
        arguments.error("--install needs a full run: the numbers of --quick are meaningless")
    if not torch.cuda.is_available():
        sys.exit("error: tiles are tuned on a GPU, and PyTorch sees none")
    result, trials = ResultFile("tune_kernels", options), list[Trial]()
    with torch.no_grad():
        chosen, stopped = tune(options, result, trials)
    print_table(
        "fastest tiles, bf16, D, h, N = 768, 768, 4",
        ["tokens", "GEMM 1 | GEMM 2 | slices of K", "µs", "÷ present"],
        [
            [str(t.tokens), describe(t.entry), f"{t.timing.us:.1f}", f"{t.timing.ratio:.3f}"]
            for t in trials
            if t.timing and t.role in ("present", "final")
        ],
    )
    print(f"{len(chosen)} new entries in the table; wrote {result.path}")
    if options.install and chosen:
        write_text(_table_path(result).read_text(), _package_table())
        print(f"wrote {_package_table()}; compile the pack again: python -m acm_export.plugins.kernels.compile")
    sys.exit(bool(stopped))


if __name__ == "__main__":
    main()
