"""What is wrong with a command line, in the style of all other errors, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from pfa_onnx.errors import PfaError
from pfa_onnx.nearest import nearest


def usage(error: click.ClickException, app: click.Group, words: Sequence[str]) -> str:
    """Return click's complaint about these words of a command line."""
    # releases of click word this one each in its own way
    what = f"no such option '{error.option_name}'" if isinstance(error, click.NoSuchOption) else error.format_message()
    what = re.sub(r" \(?did you mean .*", "", what.strip(), flags=re.IGNORECASE | re.DOTALL).removesuffix(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pfa-onnx"
    see = f"see `{command} --help`"
    fix = _elsewhere(error, app, see) or _meant(error, context, words) or see
    return str(PfaError(what[:1].lower() + what[1:], at=_place(error, command), fix=fix))


def _place(error: click.ClickException, command: str) -> str:
    """Return the option or argument that the complaint is about, else the command."""
    if isinstance(error, click.NoSuchOption | click.BadOptionUsage):
        return error.option_name
    param = error.param if isinstance(error, click.BadParameter) else None
    if param is None:
        return command
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name


def _meant(error: click.ClickException, context: click.Context | None, words: Sequence[str]) -> str | None:
    close: Sequence[str] = ()
    if isinstance(error, click.NoSuchOption):
        close = _options(error, context, words)
    elif isinstance(error, click.BadParameter):
        close = _choices(error)
    elif isinstance(error, click.UsageError) and isinstance(context, click.Context):
        command = re.match(r"No such command '(.*?)'", error.format_message())
        known = context.command.list_commands(context) if isinstance(context.command, click.Group) else ()
        close = nearest(command[1], known) if command else ()
    return f"did you mean {' or '.join(close)}?" if close else None


def _options(error: click.NoSuchOption, context: click.Context | None, words: Sequence[str]) -> list[str]:
    """Return the options that look most like the one that is not there, also with one dash for two."""
    known = options_of(context.command) if context is not None else []
    typed = error.option_name
    if not typed.startswith("--"):  # of -energy, only -e was read
        whole = [word.partition("=")[0] for word in words if re.match(r"-[^-]", word) and typed[1:] in word]
        typed = f"-{whole[0]}" if whole else typed
    long = [name for name in known if name.startswith("--")]
    return [name for name in long if name.startswith(typed)][:3] or nearest(typed, long)


def options_of(command: click.Command) -> list[str]:
    """Return every way to write an option of a command."""
    options = (param for param in command.params if isinstance(param, click.Option))
    return [name for option in options for name in option.opts] + ["--help"]


def _choices(error: click.BadParameter) -> list[str]:
    """Return the choices that look most like what was typed."""
    kind = error.param.type if error.param is not None else None
    typed = re.match(r"'(.*?)' is not one of", error.message)
    return (
        nearest(typed[1], [str(choice) for choice in kind.choices]) if isinstance(kind, click.Choice) and typed else []
    )


def _elsewhere(error: click.ClickException, app: click.Group, see: str) -> str | None:
    """Say which other verbs have this very option."""
    if not isinstance(error, click.NoSuchOption):
        return None
    verbs = [name for name, verb in app.commands.items() if error.option_name in options_of(verb)]
    return f"{error.option_name} is an option of {' and '.join(verbs)}; {see}" if verbs else None
