"""`edgecompile sign`: who built a bundle, so that others can tell."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.cli.passphrase import ask_passphrase


@click.command("sign")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The Ed25519 private key, in PEM (PKCS#8).",
)
@json_option
@traceback_option
def command(*, bundle: Path, key: Path, as_json: bool) -> None:
    """Sign BUNDLE as it is, if it is whole, in its file signature.json; an earlier signature is replaced.

    The passphrase of an encrypted key is taken from EDGECOMPILE_KEY_PASSPHRASE, or asked for on a terminal.
    """
    from edgecompile.cli.output import print_json
    from edgecompile.signing.bundle_signature import sign_bundle
    from edgecompile.signing.key_files import load_private_key
    from edgecompile.signing.listed_files import SIGNATURE

    signature = sign_bundle(bundle, load_private_key(key, ask_passphrase))
    if as_json:
        print_json({"bundle": bundle, "signature": bundle / SIGNATURE, "key_id": signature.key_id})
    else:
        click.echo(f"signed {bundle} with key {signature.key_id}")
