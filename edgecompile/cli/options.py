"""The options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class KeyValue(click.ParamType[Any]):
    """KEY=VALUE; the value is a number, true, false, or else a word."""

    name = "KEY=VALUE"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return self.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the key and the value."""
        key, equals, text = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


class DynamicAxis(KeyValue):
    """INPUT:AXIS=NAME:MIN..MAX[:STEP], or a NAME alone; what it means is checked with the other settings."""

    name = "INPUT:AXIS=NAME:MIN..MAX[:STEP]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the axis and the size, as text."""
        axis, equals, size = value.partition("=")
        if not axis or not equals:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return axis, size


traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,  # `main` reads it, so that it also holds where parsing fails
    help="Show the Python traceback of an error.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else, on stdout."
)


def public_key_option(*, required: bool = False) -> Callable[[Command], Command]:
    """Return the option that says whose bundles are trusted, as the parameter `public_keys`."""
    return click.option(
        "--public-key",
        "public_keys",
        multiple=True,
        required=required,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Only what the owner of this Ed25519 public key (PEM) signed. Repeatable: one of them.",
    )


def core_options(command: Command) -> Command:
    """Add the options that say what the emulator plays, as the parameters `device` and `cpu`."""
    for option in (
        click.option(
            "--cpu", metavar="MODEL", help="Or the CPU model, as QEMU names it. Default: cortex-a76."
        ),
        click.option("--device", metavar="NAME", help="The device that the emulator plays."),
    ):
        command = option(command)
    return command


def place_options(command: Command) -> Command:
    """Add the options that say where artifacts run, as the parameters `place`, `device` and `cpu`."""
    return click.option(
        "--on",
        "place",
        metavar="PLACE",
        help="Run in native runners: host, emulator, adb[:SERIAL] or ssh:USER@HOST[:PORT].",
    )(core_options(command))
