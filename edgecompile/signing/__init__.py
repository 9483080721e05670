"""Signed bundles and encrypted artifacts: who made a file, and who can read it (docs/signing.md).

Everything here needs the package `cryptography`: importing any of it says so where it is missing.
"""

from edgecompile.errors import ToolMissingError

try:
    import cryptography  # noqa: F401
except ImportError as error:
    raise ToolMissingError(
        "signing and encryption need the package cryptography, which cannot be imported",
        found=str(error),
        hint="pip install 'edgecompile[sign]'",
    ) from error
