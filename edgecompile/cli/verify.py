"""`edgecompile verify`: that a bundle is what the owner of a key signed, to the last byte."""

from __future__ import annotations

from pathlib import Path

import click

from edgecompile.cli.options import json_option, public_key_option, traceback_option


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@public_key_option(required=True)
@json_option
@traceback_option
def command(*, bundle: Path, public_keys: tuple[Path, ...], as_json: bool) -> None:
    """Check the signature of BUNDLE, then every file in it; what was not signed is named."""
    from edgecompile.cli.output import print_json
    from edgecompile.signing.bundle_signature import verify_bundle
    from edgecompile.signing.key_files import load_public_key

    verified = verify_bundle(bundle, [load_public_key(path) for path in public_keys])
    manifest = verified.bundle.manifest
    if as_json:
        artifacts = {item.format: item.sha256 for item in manifest.artifacts}
        print_json(
            {
                "bundle": bundle,
                "key_id": verified.key_id,
                "files": len(manifest.files),
                "artifacts": artifacts,
            }
        )
        return
    click.echo(f"{bundle}: signed with key {verified.key_id}, all {len(manifest.files)} files as signed")
