"""The options that several commands share."""

from __future__ import annotations

import click

traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,  # `main` reads it, so that it also holds where parsing fails
    help="Show the Python traceback of an error.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else, on stdout."
)
