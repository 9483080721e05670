"""`edgecompile check`: fails where a bundle is worse than its baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompile.cli.options import KeyValue, json_option, traceback_option


@click.command("check")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="What `edgecompile baseline` wrote.",
)
@click.option("--skip", multiple=True, metavar="GATE", help="Leave a gate out. Repeatable.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="The baseline's own bundle: compare times with it, too.",
)
@click.option(
    "--tolerance", "overrides", type=KeyValue(), multiple=True, help="In place of the baseline's. Repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Show the gates that hold, too.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Also write Markdown.")
@json_option
@traceback_option
def command(
    *,
    bundle: Path,
    baseline: Path,
    skip: tuple[str, ...],
    against: Path | None,
    overrides: tuple[tuple[str, Any], ...],
    everything: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with a baseline: accuracy, numerics, size, operators, instructions, memory."""
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.errors import GateFailedError
    from edgecompile.regression.check import check
    from edgecompile.regression.check_text import check_junit, check_markdown, check_text
    from edgecompile.text_file import write_text

    with shown_progress() as progress:
        found = check(
            bundle, baseline, skip=skip, against=against, overrides=dict(overrides), progress=progress
        )
    if junit:
        write_text(junit, check_junit(found))
    if markdown:
        write_text(markdown, check_markdown(found))
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(check_text(found, everything=everything))
    if not found.passed:
        gates = ", ".join(dict.fromkeys(row.gate for row in found.failures))
        raise GateFailedError(
            f"'{bundle}' is worse than its baseline: {gates}",
            where=str(baseline),
            hint="if that was meant to be, write the baseline again, and have the difference reviewed: "
            f"`edgecompile baseline {bundle} -o {baseline}`",
        )
