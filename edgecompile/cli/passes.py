"""`edgecompile passes`: the graph rewrites that a target can name."""

from __future__ import annotations

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("passes")
@json_option
@traceback_option
def command(as_json: bool) -> None:
    """List the graph passes and what each does."""
    from edgecompile import catalogue
    from edgecompile.cli.output import print_json, print_table

    package = "edgecompile.passes"
    rows = [(name, catalogue.summary(package, name)) for name in catalogue.names(package)]
    if as_json:
        print_json({"passes": [{"name": name, "summary": summary} for name, summary in rows]})
    else:
        print_table(("pass", "what it does"), rows)
