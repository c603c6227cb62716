"""Options of ``build-engine``: which contradict each other, the model or the runtime."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.files import check_apart, check_input, check_writable
from acm_export.engine.passport import files_of, passport_path
from acm_export.engine.profiles import parse_shapes
from acm_export.engine.release import MODULES, TENSORRT_RTX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from acm_export.engine.profiles import Shapes

    ShapesOption: TypeAlias = str | Mapping[str, Sequence[int]]

_UNUSED_BY_RTX = {
    "--plugin": "which takes no plugins",
    "--tensorrt-root": "which takes no plugins",
    "--cuda-root": "which takes no plugins",
    "--data": "whose engines acm-export does not run",
    "--processor": "whose engines acm-export does not run",
    "--save-onnx": "which parses the portable file itself",
}
"""Options, each with the reason why TensorRT-RTX does not use it."""


def check_options(runtime: str, output: Path, given: Mapping[str, object], *, check: bool) -> None:
    """Refuse options that contradict each other or have no effect.

    Args:
        runtime: ``tensorrt`` or ``tensorrt-rtx``.
        output: Engine to write.
        given: Values by option, None for one that is not given.
        check: Whether the engine is compared with the portable file.

    Raises:
        UsageError: The runtime is unknown, or an option is wrong.
    """
    if output.suffix in (".onnx", ".json"):
        raise UsageError(
            f"-o is {output}; the name of an engine must not end in {output.suffix}",
            f"for example: -o {output.with_suffix('.plan')}",
        )
    if runtime not in MODULES:
        raise UsageError(f"unknown runtime {runtime!r}", f"choose one of {', '.join(MODULES)}")
    if runtime == TENSORRT_RTX:
        _check_rtx(given)
        return
    if given["--processor"] is not None and given["--data"] is None:
        raise UsageError("--processor has no effect without --data", "give samples with --data")
    if isinstance(plugin := given["--plugin"], Path):
        check_input(plugin, hint="acm-export plugin-path prints the prebuilt one, acm-export build-plugin compiles one")
    if given["--data"] is not None and not check:
        raise UsageError(
            "--data is for the comparison of the engine, which --no-check skips", "leave out --data or --no-check"
        )


def _check_rtx(given: Mapping[str, object]) -> None:
    for option, reason in _UNUSED_BY_RTX.items():
        if given[option] is not None:
            raise UsageError(f"{option} has no effect with TensorRT-RTX, {reason}", f"leave out {option}")
    if given["--timing-cache"] is not None:
        warnings.warn(
            "TensorRT-RTX times no kernels while it builds: a timing cache has no effect", AcmWarning, stacklevel=4
        )


def check_files(model: Path, output: Path, given: Mapping[str, object]) -> None:
    """Check that no output is an input or another output, and that all can be written.

    Args:
        model: ONNX file that the engine is built from.
        output: Engine to write.
        given: Values by option, as for :func:`check_options`.

    Raises:
        UsageError: An output is also an input or another output.
        OutputError: An output cannot be written.
    """
    data, plugin = (given[option] for option in ("--data", "--plugin"))
    read = [Path(value) for value in (model, plugin, data) if isinstance(value, (str, os.PathLike))]
    written = {option: _path(given[option]) for option in ("--save-onnx", "--timing-cache")}
    check_apart(
        [part for path in read for part in files_of(path)],
        {"-o": output, "the passport": passport_path(output)} | written,
    )
    check_writable(output)
    check_writable(passport_path(output))
    for option, path in written.items():
        if path is not None:
            check_writable(path, option)


def shapes(value: ShapesOption | None, option: str) -> Shapes:
    """Shapes of ``--min-shapes`` and its siblings, from text or a mapping.

    Raises:
        UsageError: The text is not in trtexec's syntax.
    """
    if value is None:
        return {}
    return parse_shapes(value, option) if isinstance(value, str) else {name: tuple(s) for name, s in value.items()}


def _path(value: object) -> Path | None:
    return value if isinstance(value, Path) else None
