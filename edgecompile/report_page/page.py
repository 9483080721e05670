"""Fills the templates, and writes a page."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecompile import __version__
from edgecompile.artifact import MANIFEST, Bundle, load_bundle
from edgecompile.errors import OutputNotWritableError, ToolMissingError, UsageError
from edgecompile.report_document import read_report
from edgecompile.report_page.bundle_facts import BundleFacts
from edgecompile.report_page.measured import read_measured
from edgecompile.text_file import write_text

COMPARISON = "edgecompile-comparison.html"


def write_report(bundles: Sequence[Path], measured: Sequence[Path], output: Path | None) -> Path:
    """Write the page of a bundle, or one that compares several, and return where it is.

    Args:
        bundles: At least one, and none twice.
        measured: What `bench --json` and `validate --json` printed, in files.
        output: The page; None for a name in the current folder.

    Raises:
        NotABundleError: A path is no bundle.
        AlteredFileError: A file is not the one that was built.
        InvalidReportError: A report does not follow the schema.
        InvalidMeasurementError: A measurement cannot be read.
        MeasurementMismatchError: A measurement is of none of the bundles.
        ToolMissingError: What draws is not installed.
        OutputNotWritableError: The page cannot be written, or would replace a file of a bundle.
    """
    _check_tools()
    if len({path.resolve() for path in bundles}) < len(bundles):
        raise UsageError("a bundle is given twice", hint="give each once; one alone gets a page of its own")
    loaded = [load_bundle(path) for path in bundles]
    final = output or Path(_default_name(loaded))
    _check_output(final, loaded)
    for bundle in loaded:
        bundle.verify()  # the page says what ships
    known = {item.sha256 for bundle in loaded for item in bundle.artifacts}
    documents = read_measured(measured, known)
    facts = [
        BundleFacts(
            bundle,
            read_report(bundle),
            documents.of({item.sha256 for item in bundle.artifacts}),
            _letter(index) if len(loaded) > 1 else "",
        )
        for index, bundle in enumerate(loaded)
    ]
    write_text(final, _page(facts))
    return final


def _page(facts: Sequence[BundleFacts]) -> str:
    if len(facts) == 1:
        from edgecompile.report_page.bundle_page import bundle_context

        return render("bundle.html.j2", bundle_context(facts[0]))
    from edgecompile.report_page.comparison_page import comparison_context

    return render("comparison.html.j2", comparison_context(facts))


def render(template: str, context: dict[str, Any]) -> str:
    """Fill a template; all that is no markup of ours is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from edgecompile.report_page.shown import FILTERS

    environment = Environment(
        loader=PackageLoader("edgecompile.report_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(template).render(version=__version__, **context)


def _check_tools() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ToolMissingError(
            f"the HTML report needs {error.name}, which is not installed",
            hint="pip install 'edgecompile[report]'",
        ) from error


def _default_name(bundles: Sequence[Bundle]) -> str:
    if len(bundles) > 1:
        return COMPARISON
    manifest = bundles[0].manifest
    # A manifest comes from anywhere: its names must not lead to another folder.
    kept = {*string.ascii_letters, *string.digits, *"-_."}
    name = "".join(letter if letter in kept else "_" for letter in f"{manifest.name}-{manifest.target}")
    return f"{name.lstrip('.')[:200]}.html"


def _check_output(final: Path, bundles: Sequence[Bundle]) -> None:
    if final.is_dir():
        raise OutputNotWritableError(
            "the page cannot be written: this is a folder", where=str(final), hint="say a file with -o"
        )
    for bundle in bundles:
        own = {(bundle.path / name).resolve() for name in (*bundle.manifest.files, MANIFEST)}
        if final.resolve() in own:
            raise OutputNotWritableError(
                "the page would replace a file of the bundle", where=str(final), hint="say another with -o"
            )


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < len(letters) else f"{letters[index % 26]}{index // 26}"
