"""`edgecompile inspect`: what is inside a bundle or an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.errors import UsageError


@click.command("inspect")
@click.argument("path")
@click.option("--layers", is_flag=True, help="List every layer: how good it is, or what an artifact has.")
@click.option("--sensitivity", is_flag=True, help="List what the rounding of each layer costs.")
@click.option("--why-not", is_flag=True, help="List what was not fused, quantized or delegated, and why.")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="With --why-not: what `bench --per-op --json` printed; may be repeated.",
)
@click.option("--groups", is_flag=True, help="Of a MODEL: list what can only be pruned together.")
@json_option
@traceback_option
def command(
    path: str,
    *,
    layers: bool,
    sensitivity: bool,
    why_not: bool,
    measured: tuple[Path, ...],
    groups: bool,
    as_json: bool,
) -> None:
    """Show the operators, delegation, sizes, quantization, inputs and outputs of PATH.

    PATH is a bundle's folder or an artifact; with --groups it is a MODEL, as `build` takes it.
    """
    from edgecompile.cli.output import print_json, terminal_width

    if groups:
        if layers or sensitivity or why_not or measured:
            raise UsageError("--groups is of a model, the other options are of what was built")
        _show_groups(path, as_json)
        return
    from edgecompile.inspect_artifact import inspect

    inspection = inspect(
        Path(path), layers=layers, sensitivity=sensitivity, why_not=why_not, measured=measured
    )
    if as_json:
        print_json(inspection.to_dict())
    else:
        click.echo(inspection.text(layers=layers, width=terminal_width()))


def _show_groups(model: str, as_json: bool) -> None:
    from dataclasses import asdict

    from edgecompile.cli.output import print_json
    from edgecompile.pruning.described_groups import groups_of_model
    from edgecompile.pruning.pruning_text import groups_text

    found = groups_of_model(model)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(groups_text(found))
