"""Opens a bundle whose artifacts are about to run: whole in any case, and signed where keys are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecompile.artifact import Bundle, load_bundle


def open_bundle(path: Path, public_keys: Sequence[Path] = ()) -> Bundle:
    """Read a bundle and check all of its files.

    Args:
        path: The bundle.
        public_keys: Files of public keys, one of which must have signed it; none asks for no signature.

    Raises:
        NotABundleError: `path` is no bundle.
        InvalidManifestError: The manifest is damaged.
        AlteredFileError: A file is not the one that was built.
        InvalidKeyError: A public key cannot be read.
        SignatureMissingError: It is not signed, and must be.
        SignatureInvalidError: None of the keys has signed it as it is.
        UnlistedFileError: It must be signed, and holds what was not.
    """
    if public_keys:
        from edgecompile.signing.bundle_signature import verify_bundle
        from edgecompile.signing.key_files import load_public_key

        return verify_bundle(path, [load_public_key(file) for file in public_keys]).bundle
    bundle = load_bundle(path)
    bundle.verify()
    return bundle
