"""`edgecompile report`: a bundle's report as one HTML file, or several bundles side by side."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("report")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page. Default: NAME-TARGET.html here, of several bundles edgecompile-comparison.html.",
)
@click.option(
    "--measured",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `bench --json` or `validate --json` printed of these bundles; may be repeated.",
)
@json_option
@traceback_option
def command(
    *, bundles: tuple[Path, ...], output: Path | None, measured: tuple[Path, ...], as_json: bool
) -> None:
    """Write the report of BUNDLE as one HTML file that loads nothing; of several, one that compares them."""
    from edgecompile.cli.output import print_json
    from edgecompile.report_page.page import write_report

    page = write_report(bundles, measured, output)
    if as_json:
        print_json({"page": str(page), "size_bytes": page.stat().st_size})
    else:
        click.echo(str(page))
