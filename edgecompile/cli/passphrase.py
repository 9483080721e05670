"""The passphrase of a private key: from the environment or the terminal, never from the command line."""

from __future__ import annotations

import os
import sys

import click


def ask_passphrase(*, new: bool = False) -> bytes | None:
    """Return the variable's value, or else what is typed; None for nothing, or where there is no terminal.

    Args:
        new: It is for a new key: typed twice, and may be left empty.
    """
    from edgecompile.signing.key_files import PASSPHRASE_VARIABLE

    value = os.environ.get(PASSPHRASE_VARIABLE)
    if value is None and sys.stdin.isatty():
        value = click.prompt(
            "Passphrase (empty: the key is not encrypted)" if new else "Passphrase",
            hide_input=True,
            confirmation_prompt=new,
            default="",
            show_default=False,
            err=True,
        )
    return value.encode() if value else None
