from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, signal
from pathlib import Path
import click
from acm_export.cli.common import verb
from acm_export.base.files import move_into_place, staging_folder
from acm_export.base.interrupts import install

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), {number})
        for _ in range(1000): pass

class Turned(ImportError):
    pass

@click.command()
@verb
def work(as_json):
    with staging_folder(Path({target!r})) as staging:
        (staging / "new").write_text("new")
        {how}
        move_into_place(staging / "new", Path({target!r}))

install()
work()
"""

LOST = {
    "dropped by __del__": "x = Dropped(); del x",
    "turned into another error": (
        "try: os.kill(os.getpid(), {number}); [None for _ in range(1000)]\n"
        "        except BaseException: raise Turned('cannot load')"
    ),
    "swallowed": (
        "try: os.kill(os.getpid(), {number}); [None for _ in range(1000)]\n        except BaseException: pass"
    ),
}


@pytest.mark.parametrize("number", [int(signal.SIGINT), int(signal.SIGTERM)])
@pytest.mark.parametrize("how", LOST.values(), ids=LOST)
def test_an_interrupt_whose_exception_is_lost_still_stops_the_work(how: str, number: int, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text("old")
    program = PROGRAM.format(number=number, target=str(target), how=how.format(number=number))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: interrupted; existing files are unchanged\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("result", "old")]


def test_an_interrupt_while_the_command_line_is_imported_leaves_no_traceback() -> None:
    program = (
        "import builtins, os\n"
        "from acm_export import __main__ as launcher\n"
        "real = builtins.__import__\n"
        "def importing(name, *args, **kwargs):\n"
        "    if name == 'click': os.kill(os.getpid(), 2)\n"
        "    return real(name, *args, **kwargs)\n"
        "builtins.__import__ = importing\n"
        "launcher.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: interrupted\n"


def test_a_signal_while_a_staging_folder_is_made_leaves_no_folder(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys, tempfile\n"
        "from acm_export.base import files, interrupts\n"
        "make = tempfile.mkdtemp\n"
        "def made(*args, **options):\n"
        "    folder = make(*args, **options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return folder\n"
        "tempfile.mkdtemp = made\n"
        "interrupts.install()\n"
        "try:\n"
        "    with files.staging_folder(pathlib.Path(sys.argv[1]) / 'm.onnx'):\n"
        "        print('entered')\n"
        "except interrupts.Interrupted:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert list(tmp_path.iterdir()) == []
