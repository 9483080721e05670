"""`edgecompile validate`: proof that a bundle's artifacts compute what the reference computes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from edgecompile.cli.options import json_option, place_options, public_key_option, traceback_option
from edgecompile.errors import UsageError, ValidationFailedError


@click.command("validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@place_options
@click.option("--no-layers", is_flag=True, help="Skip the comparison of single layers, the slow part.")
@public_key_option()
@json_option
@traceback_option
def command(
    *,
    bundle: Path,
    place: str | None,
    device: str | None,
    cpu: str | None,
    no_layers: bool,
    public_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Run the artifacts of BUNDLE and compare them with the reference."""
    if place is None and (device or cpu):
        raise UsageError("--device and --cpu need --on emulator")
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.connect import connect
    from edgecompile.validate import validate

    with shown_progress() as progress, ExitStack() as stack:
        connection = stack.enter_context(connect(place, device=device, cpu=cpu)) if place else None
        validation = validate(
            bundle,
            layers=not no_layers,
            connection=connection,
            public_keys=public_keys,
            progress=progress,
        )
    if as_json:
        print_json(validation.to_dict())
    else:
        click.echo(validation.text())
    if not validation.passed:
        raise ValidationFailedError(
            f"'{bundle}' does not meet what its target states",
            hint="the table on stdout shows which threshold was missed, and by how much",
        )
