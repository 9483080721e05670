"""`edgecompile compare`: what differs between two bundles or artifacts."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@json_option
@traceback_option
def command(*, a: Path, b: Path, as_json: bool) -> None:
    """Show the outputs, layers, operators and sizes of bundles or artifacts A and B that differ.

    The largest effects come first. Outputs are compared on A's goldens, in the engines on this host.
    """
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.regression.find_differences import find_differences

    with shown_progress() as progress:
        found = find_differences(a, b, progress)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(found.text())
