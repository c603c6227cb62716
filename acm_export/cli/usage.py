"""Usage errors, worded like all other errors: what is wrong, and the next command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEGATIVE_NUMBER = re.compile(r"-\.?\d[\d.e+-]*")
_NOT_IN_RANGE = re.compile(r"(\S+) is not in the range .*")
_NOT_A_NUMBER = re.compile(r"('.*') is not a valid (?:float|integer)(?: range)?")
_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)")


def describe_usage(error: click.UsageError, args: Sequence[str]) -> tuple[str, str]:
    """Message and hint for a usage error that click raised.

    Args:
        error: From parsing the command line, or raised by a verb.
        args: The command line after the name of the program.

    Returns:
        The message and the hint.
    """
    command = error.ctx.command if error.ctx is not None else None
    if command is None:
        verb = args[0] if args else None
    else:
        verb = None if isinstance(command, click.Group) else command.name
    hint = f"acm-export {verb} --help shows options and examples" if verb else "acm-export --help lists all verbs"
    if isinstance(error, click.NoSuchOption):
        special = _negative(command, verb, args) or _argument(error.option_name, command, verb)
        if special is not None:
            return special
        if verb is None and args != [error.option_name]:
            hint = f"options come after the verb: acm-export VERB {error.option_name}"
        elif error.possibilities:
            hint = f"did you mean {' or '.join(sorted(error.possibilities))}? {hint}"
        return f"no such option: {error.option_name}", hint
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"missing {error.param.param_type_name} {_name(error.param)}", hint
    if isinstance(error, click.BadParameter) and error.param is not None:
        return _bad_value(error.message.removesuffix("."), error.param, hint)
    message = error.format_message().strip().removesuffix(".")
    if extra := _EXTRA.fullmatch(message):
        return f"too many arguments: {extra[1]}", hint
    return message[:1].lower() + message[1:], hint


def _name(parameter: click.Parameter) -> str:
    """The parameter as the user writes it."""
    return parameter.human_readable_name if isinstance(parameter, click.Argument) else "/".join(parameter.opts)


def _bad_value(message: str, parameter: click.Parameter, hint: str) -> tuple[str, str]:
    """A value that the parameter's type refused."""
    name, kind = _name(parameter), parameter.type
    if match := _NOT_IN_RANGE.fullmatch(message):
        value, share = float(match[1]), isinstance(kind, click.FloatRange) and kind.max == 1
        if share and 2 < value <= 100:
            hint = f"write {value:g}% as {value / 100:g}"
        return f"{name} is {value:g}; it must be {_range(kind)}", hint
    if match := _NOT_A_NUMBER.fullmatch(message):
        return f"{name} is {match[1]}; it must be {_range(kind)}", hint
    return f"invalid value for {name}: {message}", hint


def _range(kind: click.ParamType[Any]) -> str:
    noun = "a whole number" if isinstance(kind, click.types.IntParamType) else "a number"
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    return noun if low is None else f"{noun} of at least {low}"


def _negative(command: click.Command | None, verb: str | None, args: Sequence[str]) -> tuple[str, str] | None:
    """The error for a negative number given as a numeric argument, which click takes for an option."""
    token = next((arg for arg in args if _NEGATIVE_NUMBER.fullmatch(arg)), None)
    argument = next((a for a in _arguments(command) if isinstance(a.type, click.FloatRange | click.IntRange)), None)
    if token is None or argument is None:
        return None
    name = argument.human_readable_name
    return (
        f"{name} is {token}; it must be {_range(argument.type)}",
        f"acm-export {verb} --help shows options and examples",
    )


def _argument(option: str, command: click.Command | None, verb: str | None) -> tuple[str, str] | None:
    """The error for an option named like an argument."""
    argument = next((a for a in _arguments(command) if f"--{a.name}".replace("_", "-") == option), None)
    if argument is None:
        return None
    line = " ".join(a.human_readable_name for a in _arguments(command))
    name = argument.human_readable_name
    return f"no such option: {option}; {name} is an argument", f"give it without {option}: acm-export {verb} {line}"


def _arguments(command: click.Command | None) -> list[click.Argument]:
    return [p for p in command.params if isinstance(p, click.Argument)] if command is not None else []
