"""MobileNetV2's own page, of everything that can be measured of it, in a browser."""

from pathlib import Path

import pytest
from test_report_browser import DESKTOP, FIGURES, PHONE, TABLES, open_page, overflow, requested

from edgecompile.report_page.page import write_report

EXAMPLE = Path(__file__).parents[2] / "examples/mobilenet_v2.py"


@pytest.mark.slow
def test_mobilenet_page(browser, cli, tmp_path):
    data = [f"--{name}={EXAMPLE}:{name}" for name in ("calibration", "evaluation")]
    build = ["build", f"{EXAMPLE}:model", "--target", "android-arm64", "--format", "pte", *data]
    runs = {
        "searched": ["--sensitivity", "--min-sqnr-db", "24"],
        "pruned": ["--prune", "0.2"],
    }
    seen: dict[int, set[str]] = {DESKTOP: set(), PHONE: set()}
    tables: set[str] = set()
    for name, options in runs.items():
        assert cli(*build, *options, "--output", tmp_path / name).status == 0
        bundle = tmp_path / name / "android-arm64"
        documents = []
        for kind, command in (
            ("counts", ["bench", bundle, "--on", "emulator", "--instructions", "--rounds", "1"]),
            ("times", ["bench", bundle, "--rounds", "2", "--per-op", "--trace", tmp_path / "trace.json"]),
            ("validated", ["validate", bundle]),
        ):
            finished = cli(*command, "--json")
            assert finished.status == 0, finished.err
            documents.append(tmp_path / f"{name}-{kind}.json")
            documents[-1].write_text(finished.out)
        page = write_report([bundle], documents, tmp_path / f"{name}.html")
        assert page.stat().st_size < 1_000_000
        for width in (DESKTOP, PHONE):
            open_page(browser, page, width=width)
            assert requested(browser) == [page.as_uri()] and browser.get_log("browser") == []
            browser.execute_script("document.querySelectorAll('details').forEach(item => item.open = true)")
            assert overflow(browser) == 0
            heights = browser.execute_script(
                "return [...document.querySelectorAll('figure')].map(figure => [figure.id,"
                " ...[...figure.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().height)])"
            )
            seen[width] |= {figure for figure, *sizes in heights if max(sizes) > 30}
            captions = browser.execute_script(
                "return [...document.querySelectorAll('caption')].map(caption => caption.id)"
            )
            tables |= {caption.removesuffix("-caption") for caption in captions}
    assert all(set(FIGURES) <= found for found in seen.values())
    assert set(TABLES) <= tables
