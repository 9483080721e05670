"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,  # `main` reads it, so that it also holds where parsing fails
    help="Show the Python traceback of an error.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else, on stdout."
)


def place_options(command: Command) -> Command:
    """Add the options that say where artifacts run, as the parameters `place`, `device` and `cpu`."""
    for option in (
        click.option(
            "--cpu", metavar="MODEL", help="Or the CPU model, as QEMU names it. Default: cortex-a76."
        ),
        click.option("--device", metavar="NAME", help="The device that the emulator plays."),
        click.option(
            "--on",
            "place",
            metavar="PLACE",
            help="Run in native runners: host, emulator, adb[:SERIAL] or ssh:USER@HOST[:PORT].",
        ),
    ):
        command = option(command)
    return command
