"""The command line: finds the command, and turns every error into text on stderr and an exit status."""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from edgecompile import __version__
from edgecompile.cli.options import traceback_option
from edgecompile.cli.quiet import quiet_libraries
from edgecompile.errors import (
    EdgecompileError,
    InternalError,
    InterruptedBuildError,
    UsageError,
    did_you_mean,
)

_AGAIN_SECONDS = 0.005

COMMANDS = (
    *("build", "validate", "bench", "inspect", "report", "embed"),
    *("baseline", "check", "compare"),
    *("keygen", "sign", "verify", "encrypt", "decrypt"),
    *("targets", "devices", "passes", "cache", "doctor"),
)


class LazyGroup(click.Group):
    """A group whose command `x` is `edgecompile.cli.x.command`, imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"edgecompile.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument, or say which ones there are."""
        name = arguments[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(context, arguments)
        guess = did_you_mean(name, COMMANDS)
        hint = f"did you mean {guess!r}?" if guess else "`edgecompile --help` shows all."
        raise UsageError(f"there is no command {name!r}", known=", ".join(COMMANDS), hint=hint)


@click.group(
    "edgecompile",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="edgecompile %(version)s")
@traceback_option
@click.pass_context
def group(context: click.Context) -> None:
    """Compile a PyTorch model for phones and boards, and prove that it still computes the same."""
    quiet_libraries()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status (`edgecompile.errors` lists them)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(list(arguments))  # click empties the list
    except BrokenPipeError:
        _silence_stdout()
        return 0  # the reader, `head` perhaps, has all that it wanted
    except (Exception, KeyboardInterrupt, SystemExit) as raised:
        error = _as_ours(raised, arguments)
        if "--traceback" in arguments:
            click.echo("".join(traceback.format_exception(raised)), err=True, nl=False)
        click.echo(error.render(), err=True)
        return error.exit_status


def _run(arguments: list[str]) -> int:
    try:
        # Not click's own `main`, which would print errors in its own shape.
        with _terminable(), group.make_context("edgecompile", arguments) as context:
            group.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as finished:  # --help and --version
        sys.stdout.flush()
        return finished.exit_code
    return 0


def _as_ours(raised: BaseException, arguments: list[str]) -> EdgecompileError:
    """Return the error that a user sees for anything that was raised."""
    match raised:
        case EdgecompileError():
            return raised
        case click.ClickException():
            return _usage_error(raised, arguments)
        case KeyboardInterrupt() | click.Abort():
            return InterruptedBuildError("interrupted", hint="an earlier good output was not touched")
    frames = traceback.extract_tb(raised.__traceback__)
    return InternalError(
        "".join(traceback.format_exception_only(raised)).strip(),
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
        hint="this is a bug in edgecompile; run again with `--traceback` and report what it prints",
    )


def _usage_error(raised: click.ClickException, arguments: list[str]) -> UsageError:
    context = raised.ctx if isinstance(raised, click.UsageError) else None
    # click's parser does not always say whose option it was parsing.
    named = next((argument for argument in arguments if argument in COMMANDS), "")
    path = context.command_path if context else f"edgecompile {named}".strip()
    hint = f"`{path} --help` shows what it takes."
    message = raised.format_message().rstrip(".")
    if isinstance(raised, click.NoSuchOption):
        message = f"there is no option {raised.option_name!r}"
        options = [name for item in (context.command.params if context else []) for name in item.opts]
        guess = did_you_mean(raised.option_name, [name for name in options if name.startswith("-")])
        hint = f"did you mean {guess!r}? {hint}" if guess else hint
    return UsageError(message, where=f"`{path}`", hint=hint)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a termination signal unwind like Ctrl-C, so that temporary folders are removed.

    Python drops what is raised in a weak reference's callback, of which torch runs thousands when it lets a
    program go; an interrupt that falls there is raised once more.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def raise_again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            # Not from here, where it would be dropped as well.
            threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, (signal.SIGTERM,)).start()
        else:
            earlier_hook(dropped)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    previous, earlier_hook = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = earlier_hook
        signal.signal(signal.SIGTERM, previous)


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
