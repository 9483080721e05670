"""`edgecompile decrypt`: the artifact out of what `encrypt` wrote."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("decrypt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key-file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The key: 32 bytes."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The artifact.")
@json_option
@traceback_option
def command(*, file: Path, key_file: Path, output: Path, as_json: bool) -> None:
    """Write the artifact in FILE, if not a byte of it was altered."""
    from edgecompile.cli.output import print_json
    from edgecompile.signing.encrypted_artifact import decrypt, load_key, read_container
    from edgecompile.text_file import write_bytes

    artifact = decrypt(read_container(file), load_key(key_file), str(file))
    write_bytes(output, artifact.data)
    if as_json:
        print_json({"output": output, "name": artifact.name, "sha256": artifact.sha256})
    else:
        click.echo(f"{output}: {artifact.name!r}, SHA-256 {artifact.sha256}")
