"""`edgecompile baseline`: keeps how good a bundle is, for `edgecompile check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompile.cli.options import KeyValue, core_options, json_option, traceback_option
from edgecompile.errors import UsageError


@click.command("baseline")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.",
)
@core_options
@click.option("--no-instructions", is_flag=True, help="Count no instructions; needs no emulator.")
@click.option("--no-memory", is_flag=True, help="Measure no memory; needs no compiler.")
@click.option(
    "--tolerance", "overrides", type=KeyValue(), multiple=True, help="What a gate allows. Repeatable."
)
@json_option
@traceback_option
def command(
    *,
    bundle: Path,
    output: Path,
    device: str | None,
    cpu: str | None,
    no_instructions: bool,
    no_memory: bool,
    overrides: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """Write a small JSON file of what BUNDLE is, to be reviewed and kept beside the sources.

    Where the file is there already, its tolerances stay.
    """
    if no_instructions and (device or cpu):
        raise UsageError("--device and --cpu choose the core that instructions are counted on")
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.connections.emulator import DEFAULT_CPU
    from edgecompile.regression.baseline import write_baseline
    from edgecompile.regression.check import make_baseline
    from edgecompile.regression.facts import EmulatedCore

    core = EmulatedCore(device=device, cpu=cpu if device or cpu else DEFAULT_CPU)
    with shown_progress() as progress:
        made, notes = make_baseline(
            bundle,
            core=None if no_instructions else core,
            memory=not no_memory,
            earlier=output,
            overrides=dict(overrides),
            progress=progress,
        )
    write_baseline(output, made)
    if as_json:
        print_json({"baseline": output, "notes": notes})
        return
    click.echo("\n".join([f"wrote {output}: read it, and commit it", *(f"  {note}" for note in notes)]))
