"""What a platform is: the formats, types and words that it has, and the files of a project.

A platform `web` is one module, `platforms/web.py` with the class `Web`, and one folder, `templates/web/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from edgecompile import __version__, catalogue
from edgecompile.errors import UnknownPlatformError

if TYPE_CHECKING:
    from jinja2 import Environment

    from edgecompile.embedding.subject import Subject

_PACKAGE = "edgecompile.embedding.platforms"


class Platform(ABC):
    """One platform.

    Attributes:
        formats: What it has an engine for, the best first.
        types: Its types for the dtypes of inputs and outputs; no other dtype can be embedded.
        reserved: What no identifier may be: the language's words, and what its templates call their own.
        reserved_names: What the model's own name may not be, beside those.
        dynamic_sizes: Whether sizes other than the batch may be left open.
        verifies_signatures: Whether the wrapper can verify the signature of an artifact.
    """

    formats: ClassVar[tuple[str, ...]]
    types: ClassVar[Mapping[str, str]]
    reserved: ClassVar[frozenset[str]]
    reserved_names: ClassVar[frozenset[str]] = frozenset()
    dynamic_sizes: ClassVar[bool] = False
    verifies_signatures: ClassVar[bool] = False

    @abstractmethod
    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return the files of a project, by their paths in it."""


def platform_names() -> tuple[str, ...]:
    """Return the names of all platforms."""
    return catalogue.names(_PACKAGE)


def load_platform(name: str) -> Platform:
    """Return a platform.

    Raises:
        UnknownPlatformError: There is none of that name.
    """
    if name not in platform_names():
        raise UnknownPlatformError(name, platform_names())
    found = catalogue.load(_PACKAGE, name)()
    assert isinstance(found, Platform)
    return found


def rendered(template: str, subject: Subject, **more: Any) -> bytes:
    """Return a template (`python/model.py.j2`) filled with a subject.

    A name from a bundle may hold anything: it stands in a template as an identifier only.
    """
    return _environment().get_template(template).render(subject=subject, version=__version__, **more).encode()


@cache
def _environment() -> Environment:
    """Return what keeps the compiled templates, made when the first is needed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("edgecompile.embedding"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
