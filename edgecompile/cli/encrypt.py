"""`edgecompile encrypt`: an artifact that can lie in an app's package and not be read there."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.errors import OutputNotWritableError


@click.command("encrypt")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--format", "artifact_format", required=True, metavar="FORMAT", help="Of the artifact.")
@click.option(
    "--key-file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key: 32 random bytes, which the app keeps.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The encrypted file.")
@json_option
@traceback_option
def command(*, bundle: Path, artifact_format: str, key_file: Path, output: Path, as_json: bool) -> None:
    """Write an artifact of BUNDLE encrypted with AES-256-GCM."""
    from edgecompile.cli.output import print_json
    from edgecompile.signing.encrypted_artifact import encrypt_from_bundle, load_key
    from edgecompile.text_file import write_bytes

    if output.resolve().is_relative_to(bundle.resolve()):
        raise OutputNotWritableError(
            "the encrypted file is no file of the bundle", where=str(output), hint="write it elsewhere"
        )
    container = encrypt_from_bundle(bundle, artifact_format, load_key(key_file))
    write_bytes(output, container)
    if as_json:
        print_json({"output": output, "size_bytes": len(container)})
    else:
        click.echo(f"{output}: {len(container)} bytes")
