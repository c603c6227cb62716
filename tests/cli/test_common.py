"""Common to every verb: one JSON object, exit codes, -v, -q, usage errors, completion."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from acm_export.base import errors
from acm_export.base.errors import AcmError, AcmWarning, ModelFileError
from acm_export.base.optional import install_command
from acm_export.cli import VERBS, main
from acm_export.cli.common import log, progress, status, verb, warn, write_json
from acm_export.cli.invocation import LOGGER, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [command.name or "" for command in VERBS]


def call(work: Callable[[], object], *args: str) -> Result:
    """A verb that does ``work``."""

    @click.command()
    @verb
    def made(as_json: bool) -> None:
        del as_json
        work()

    return CliRunner().invoke(made, args)


def fails() -> None:
    write_json({"passed": False, "warnings": ["first"]})
    warnings.warn("second", AcmWarning, stacklevel=1)
    warn("first")
    raise ModelFileError("it is broken", "repair it")


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_reports_a_usage_error_as_one_json_object(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--no-such-option", "--json"])
    assert result.exit_code == 2
    content = json.loads(result.stdout)
    assert content.keys() == {"warnings", "error"}
    assert content["error"]["kind"] == "usage"
    assert content["error"]["message"] == "no such option: --no-such-option"
    assert f"acm-export {name} --help" in content["error"]["hint"]
    assert "error: no such option: --no-such-option" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_the_common_options(name: str) -> None:
    options = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert {"--json", "-v", "--verbose", "-q", "--quiet", "--debug"} <= options


def test_a_failure_is_one_object_with_the_result_warnings_and_error() -> None:
    result = call(fails, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "passed": False,
        "warnings": ["first", "second"],
        "error": {"kind": "model_file", "message": "it is broken", "hint": "repair it"},
    }
    assert result.stderr == "warning: second\nwarning: first\nerror: it is broken\nhint: repair it\n"


def test_a_success_is_one_object_with_its_warnings() -> None:
    result = call(lambda: (warn("careful"), write_json({"a": 1})), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"a": 1, "warnings": ["careful"]}


def test_a_verb_that_exits_itself_still_prints_its_object() -> None:
    def works() -> None:
        write_json({"passed": False})
        raise SystemExit(1)

    result = call(works, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"passed": False, "warnings": []}


def test_a_warning_of_the_logger_is_a_warning_like_any_other() -> None:
    result = call(lambda: LOGGER.warning("it is %s", "slow"), "-q", "--json")
    assert result.stderr == ""
    result = call(lambda: (LOGGER.warning("it is %s", "slow"), write_json({})), "--json")
    assert result.stderr == "warning: it is slow\n"
    assert json.loads(result.stdout) == {"warnings": ["it is slow"]}


def test_quiet_leaves_only_errors() -> None:
    result = call(lambda: (log("working"), fails()), "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: it is broken\nhint: repair it\n"
    assert "second" in json.loads(call(fails, "-q", "--json").stdout)["warnings"]


def test_quiet_shows_no_progress() -> None:
    def works() -> None:
        with status("looking"), progress() as shown:
            shown.stage("working", 2)
            shown.batch()

    assert call(works, "-q").stderr == ""
    assert call(works).stderr == "working\n"


def test_verbose_shows_seconds_and_details() -> None:
    def works() -> None:
        with progress() as shown:
            shown.stage("working", 2)

    lines = call(works, "-v").stderr.splitlines()
    assert all(line.startswith("[") and " s] " in line for line in lines)
    assert "acm-export" in lines[0]
    assert [line.partition("] ")[2].partition(":")[0] for line in lines[1:]] == [
        "working",
        "working",
        lines[-1].partition("] ")[2],
    ]
    assert "finished after" in lines[-1]


def test_an_error_of_click_inside_a_verb_names_the_verb() -> None:
    def works() -> None:
        raise click.UsageError("These options belong together.")

    result = call(works)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: these options belong together\nhint: acm-export made --help")


def test_an_unexpected_error_asks_for_a_report_and_debug_shows_where() -> None:
    result = call(lambda: {}["x"], "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["kind"] == "unexpected"
    assert "Traceback" not in result.stderr
    result = call(lambda: {}["x"], "--debug")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-2] == "error: unexpected KeyError: 'x'"


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 21.8 PiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes")],
)
def test_out_of_memory_is_not_reported_as_a_bug(error: Exception) -> None:
    def works() -> None:
        raise error

    result = call(works)
    assert result.stderr.startswith("error: not enough memory: ")
    assert "hint: use fewer samples" in result.stderr


def test_every_kind_of_error_is_the_class_name_in_snake_case() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AcmError)]
    kinds = {value.__name__: failure_of(value("x")).kind for value in classes}
    assert kinds["MissingDependencyError"] == "missing_dependency"
    assert kinds["ModelFileError"] == "model_file"
    assert kinds["UsageError"] == "usage"
    assert len(set(kinds.values())) == len(kinds)


def test_verbs_are_listed_in_the_order_of_the_line() -> None:
    lines = CliRunner().invoke(main, ["--help"]).stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == NAMES


def test_the_shell_completes_verbs_and_options() -> None:
    def complete(*words: str) -> str:
        surroundings = {"_ACM_EXPORT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["acm-export", *words])}
        surroundings["COMP_CWORD"] = str(len(words))
        return CliRunner().invoke(main, prog_name="acm-export", env=surroundings).stdout

    assert complete("set").split() == ["plain,set-budget"]
    assert "plain,--checkpoint" in complete("verify", "m.onnx", "--ch").split()


def test_a_missing_base_package_comes_with_its_install_command() -> None:
    failure = failure_of(ModuleNotFoundError("No module named 'onnx'", name="onnx"))
    assert (failure.kind, failure.message) == ("missing_dependency", "the package onnx is not installed")
    assert failure.hint == install_command()
    assert failure_of(ModuleNotFoundError("No module named 'other'", name="other")).kind == "unexpected"
