"""The page in a browser: it loads nothing, shows everything, fits a phone, and is usable with a keyboard."""

import itertools
import json
import re
from pathlib import Path

import pytest
import written_bundle as written

from edgecompile.report_page.page import write_report

PHONE, DESKTOP = 390, 1280
FIGURES = (
    *("figure-sqnr", "figure-ranges", "figure-sensitivity", "figure-pareto", "figure-pruning"),
    *("figure-size", "figure-time-1"),
)
TABLES = (
    *("before-after", "layer-table", "sensitivity-table", "trials", "groups", "cost-table", "why-not-table"),
    *("settings", "steps", "toolchain", "instructions-1", "latency-1", "inputs"),
)
HOSTILE = "</title></svg><script>document.title='broken'</script><img src=x onerror=alert(1)>\x00$\\frac{"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return full_page(tmp_path_factory.mktemp("page"))


def full_page(folder: Path, **changes) -> Path:
    """Write the page of a bundle of which everything was measured."""
    bundle = written.write_bundle(folder / "bundle", written.full_report(**changes))
    row = written.measured_row(bundle)
    row["artifact"] = changes.get("label", row["artifact"])
    documents = [
        written.write_document(folder / f"{index}.json", document)
        for index, document in enumerate((written.times(row), written.counts(row), written.validated(bundle)))
    ]
    return write_report([bundle], documents, folder / "page.html")


def open_page(browser, path: Path, *, width: int = DESKTOP, dark: bool = False) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width <= PHONE}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # forgets what earlier pages wrote
    browser.get(path.as_uri())


def overflow(browser) -> int:
    """Return by how many pixels the page is wider than the window."""
    return browser.execute_script(
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    )


def requested(browser) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        item["params"]["request"]["url"] for item in messages if item["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if not url.startswith("data:")]


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_it_opens_without_errors_and_loads_nothing(browser, page, width):
    open_page(browser, page, width=width)
    assert requested(browser) == [page.as_uri()]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_figure_is_there_and_seen(browser, page, width):
    open_page(browser, page, width=width)
    sizes = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('figure')].map(figure => [figure.id,"
        " [...figure.querySelectorAll('svg')].map(svg => Math.round(svg.getBoundingClientRect().height))]))"
    )
    assert set(sizes) == set(FIGURES)
    # Of the two widths of each just one is shown.
    assert all(sorted(height > 30 for height in heights) == [False, True] for heights in sizes.values()), (
        sizes
    )
    captions = browser.execute_script(
        "return [...document.querySelectorAll('table')].map(table => table.caption && table.caption.id)"
    )
    assert {f"{name}-caption" for name in TABLES} <= set(captions) and None not in captions


def test_a_figure_is_named_and_described_and_its_text_is_text(browser, page):
    open_page(browser, page)
    found = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(svg => [svg.getAttribute('role'),"
        " ...['aria-labelledby', 'aria-describedby'].map(name =>"
        "  document.getElementById(svg.getAttribute(name)).textContent),"
        " svg.querySelectorAll('text').length])"
    )
    for role, title, description, texts in found:
        assert role == "img" and title and description and texts > 1
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(item => item.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [PHONE, 320])
@pytest.mark.parametrize("name", ["net", "a_very_long_name_" * 9])
def test_a_phone_scrolls_tables_and_not_the_page(browser, page, width, name, tmp_path):
    path = page if name == "net" else full_page(tmp_path, name=name, label=name)
    open_page(browser, path, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert overflow(browser) == 0
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(item => item.scrollWidth > item.clientWidth).length"
    )
    assert wide > 3


def test_the_keyboard_reaches_what_scrolls_after_a_link_past_the_contents(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page, width=PHONE)
    focused = "const item = document.activeElement; return [item.tagName, item.className, item.textContent]"
    reached = []
    for _ in range(30):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.execute_script(focused))
    assert reached[0][1:] == ["skip", "Skip to the report"]
    kinds = [name for tag, name, _ in reached if tag == "DIV"]
    assert kinds.count("scroll") + kinds.count("scroll long") >= 4
    names = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(item => ["
        " item.tabIndex, item.getAttribute('role'),"
        " document.getElementById(item.getAttribute('aria-labelledby')).textContent.trim() != ''])"
    )
    assert all(row == [0, "region", True] for row in names)


def test_the_pointer_finds_the_numbers_of_a_layer(browser, page):
    open_page(browser, page)
    found = browser.execute_script(
        "const figure = document.querySelector('#figure-sqnr'); figure.scrollIntoView({behavior: 'instant'});"
        "const box = figure.querySelector('svg').getBoundingClientRect();"
        "const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);"
        "return hit.closest('.mark').querySelector('title').textContent"
    )
    assert re.fullmatch(r"\d+  conv2d_\d+  net.py:7\nalone \d+\.\d dB, end to end \d+\.\d dB", found)


def test_headings_are_in_order_and_every_link_leads_somewhere(browser, page):
    open_page(browser, page)
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(item => +item.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    lost = browser.execute_script(
        "return [...document.querySelectorAll('a')].map(item => item.getAttribute('href'))"
        ".filter(href => !document.querySelector(href))"
    )
    assert lost == []
    landmarks = (
        "return ['header', 'nav', 'main', 'footer'].map(name => document.querySelectorAll(name).length)"
    )
    assert browser.execute_script(landmarks) == [1, 1, 1, 1]


def test_dark_changes_the_page_and_its_figures_and_text_stays_readable(browser, page):
    seen = {}
    for dark in (False, True):
        open_page(browser, page, dark=dark)
        seen[dark] = browser.execute_script(
            "const style = (name) => getComputedStyle(document.querySelector(name));"
            "return [style('body').backgroundColor, style('body').color, style('svg text').fill,"
            " style('.scroll').backgroundColor]"
        )
    assert all(light != dark for light, dark in zip(seen[False], seen[True], strict=True))
    for background, ink, muted, surface in seen.values():
        assert contrast(ink, background) > 10
        assert contrast(muted, background) > 4.5 and contrast(muted, surface) > 4.5


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, `rgb(r, g, b)`, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_hostile_names_are_shown_and_nothing_else(browser, tmp_path):
    path = full_page(tmp_path, name=HOSTILE, label=HOSTILE, data=HOSTILE)
    open_page(browser, path)
    assert requested(browser) == [path.as_uri()] and browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('script, img, iframe').length") == 0
    assert browser.title.startswith("</title></svg><script>")
    assert "<script>document.title='broken'</script>" in browser.find_element("css selector", "h1").text
    figures = browser.execute_script("return [...document.querySelectorAll('figure')].map(item => item.id)")
    assert set(figures) == set(FIGURES)
    # The browser finds every element where it is written: none was closed by a name.
    assert browser.execute_script("return document.querySelectorAll('footer').length") == 1


def test_bundles_side_by_side(browser, tmp_path):
    bundles = [
        written.write_bundle(tmp_path / name, written.full_report(count=count))
        for name, count in (("one", 12), ("two", 9), ("three", 12))
    ]
    path = write_report(bundles, [], tmp_path / "page.html")
    for width in (DESKTOP, PHONE):
        open_page(browser, path, width=width)
        assert requested(browser) == [path.as_uri()] and browser.get_log("browser") == []
        assert overflow(browser) == 0
    figures = browser.execute_script("return [...document.querySelectorAll('figure')].map(item => item.id)")
    assert figures == ["figure-compared", "figure-sqnr"]
