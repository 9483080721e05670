"""`edgecompile embed`: from a bundle to the project or module that an app developer drops in."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("embed")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--platform", required=True, metavar="NAME", help="What the app runs on: python, cpp, ...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Gets the project; absent or empty.",
)
@click.option(
    "--format", "format_name", metavar="NAME", help="Which artifact. Default: the platform's first."
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="BUNDLE must be signed by the owner of this Ed25519 public key (PEM), and what the app loads, too.",
)
@click.option("--force", is_flag=True, help="Replace what embed wrote to DIR before, and nothing else.")
@json_option
@traceback_option
def command(
    *,
    bundle: Path,
    platform: str,
    output: Path,
    format_name: str | None,
    public_key: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the project or module that runs BUNDLE's model in an app, with a test of its own."""
    from dataclasses import asdict

    from edgecompile.cli.output import print_json
    from edgecompile.embedding.embed import embed

    written = embed(bundle, platform, output, format_name=format_name, public_key=public_key, force=force)
    if as_json:
        print_json(asdict(written) | {"folder": str(output)})
        return
    click.echo(f"{output}: {written.name} ({written.format}) for {platform}, {len(written.files)} files")
    if written.key_id is not None:
        click.echo(f"it loads what is signed with key {written.key_id}, and nothing else")
    click.echo(f"{output / 'README.md'} says how to use and test it")
