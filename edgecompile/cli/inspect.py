"""`edgecompile inspect`: what is inside a bundle or an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="List every layer: how good it is, or what an artifact has.")
@click.option("--sensitivity", is_flag=True, help="List what the rounding of each layer costs.")
@json_option
@traceback_option
def command(path: Path, layers: bool, sensitivity: bool, as_json: bool) -> None:
    """Show the operators, delegation, sizes, quantization, inputs and outputs of PATH."""
    from edgecompile.cli.output import print_json, terminal_width
    from edgecompile.inspect_artifact import inspect

    inspection = inspect(path, layers=layers, sensitivity=sensitivity)
    if as_json:
        print_json(inspection.to_dict())
    else:
        click.echo(inspection.text(layers=layers, width=terminal_width()))
