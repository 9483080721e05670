"""Names of a model as identifiers of a language: the same name always becomes the same identifier."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from edgecompile.errors import NameCollisionError


def identifier(name: str, reserved: Collection[str] = ()) -> str:
    """Return a name as an identifier of ASCII letters, digits and single underscores.

    Anything else becomes an underscore, those at the ends go, a digit in front gets `x_` before it, and a
    word of the language an underscore after it.
    """
    plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    if not plain or plain[0].isdigit():
        plain = f"x_{plain}".rstrip("_")
    return f"{plain}_" if plain in reserved else plain


def type_name(plain: str) -> str:
    """Return an identifier in CamelCase."""
    return "".join(word[0].upper() + word[1:] for word in plain.split("_") if word)


def identifiers(names: Sequence[str], reserved: Collection[str], kind: str) -> tuple[str, ...]:
    """Return names as identifiers, each another one.

    Raises:
        NameCollisionError: Two names become the same.
    """
    taken: dict[str, str] = {}
    for name in names:
        plain = identifier(name, reserved)
        if plain in taken:
            raise NameCollisionError(
                f"two {kind}s of the model become {plain!r}",
                found=f"{taken[plain]!r} and {name!r}",
                hint=f"rename one {kind} in the model's `forward`",
            )
        taken[plain] = name
    return tuple(taken)
