"""`edgecompile keygen`: a new key pair to sign bundles with."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.cli.passphrase import ask_passphrase


@click.command("keygen")
@click.argument("key", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--public-key",
    "public",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the public key goes. Default: beside FILE, as NAME.public.pem.",
)
@json_option
@traceback_option
def command(*, key: Path, public: Path | None, as_json: bool) -> None:
    """Write a new Ed25519 private key to FILE, for its owner alone, and its public key beside it.

    The private key is encrypted with the passphrase in EDGECOMPILE_KEY_PASSPHRASE, or else with one that is
    asked for on a terminal. No file is overwritten.
    """
    from edgecompile.cli.output import print_json
    from edgecompile.signing.key_files import PASSPHRASE_VARIABLE, key_id, write_key_pair

    public = public or key.with_name(f"{key.name.removesuffix('.pem')}.public.pem")
    passphrase = ask_passphrase(new=True)
    name = key_id(write_key_pair(key, public, passphrase))
    if as_json:
        document = {"key_id": name, "private_key": key, "public_key": public, "encrypted": bool(passphrase)}
        print_json(document)
        return
    click.echo(f"key {name}")
    state = "encrypted" if passphrase else f"not encrypted: {PASSPHRASE_VARIABLE} is not set"
    click.echo(f"  {key}: private, {state}\n  {public}: public, for those who verify")
