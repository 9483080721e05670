"""A matplotlib figure as SVG inside the page: its colours are the page's CSS variables, its text is text."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from edgecompile.printable import printable, printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_POINTS = 72

# Colours that stand for the page's variables, so that a figure follows light, dark and print.
INK, MUTED, GRID, BAND = "#010101", "#020202", "#030303", "#040404"
FIRST, SECOND, THIRD, BAD, SOFT = "#050505", "#060606", "#070707", "#080808", "#090909"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    BAND: "--band",
    FIRST: "--first",
    SECOND: "--second",
    THIRD: "--third",
    BAD: "--bad",
    SOFT: "--soft",
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgecompile",
    "text.parse_math": False,  # a "$" in a layer's name is a dollar
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.4,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}

Tips = dict[str, str]
Draw = Callable[["Figure", "Canvas"], None]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is drawn on.

    Attributes:
        width: In CSS pixels.
        tips: By the `gid` of an artist, what the browser shows while the pointer is on it.
    """

    width: int
    tips: Tips

    @property
    def is_narrow(self) -> bool:
        """Whether it is for a phone."""
        return self.width < _WIDE

    def tip(self, text: str) -> str:
        """Return the `gid` of an artist with this text."""
        name = f"tip{len(self.tips)}"
        self.tips[name] = text
        return name


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """A figure in two widths, of which the page shows one.

    Attributes:
        name: Its `id` in the page.
        title: What it shows, and `description` what is to be seen, for who does not see it.
    """

    name: str
    title: str
    description: str
    wide: Markup
    narrow: Markup


_WIDE, _NARROW = 800, 340


def page_figure(
    name: str, title: str, description: str, height: Callable[[Canvas], int], draw: Draw
) -> PageFigure:
    """Draw a figure in both widths.

    Args:
        name: Unique in the page.
        title: What it shows.
        description: What is to be seen.
        height: In CSS pixels, of a canvas.
        draw: Fills a figure.
    """
    drawn = {}
    for kind, width in (("wide", _WIDE), ("narrow", _NARROW)):
        canvas = Canvas(width=width, tips={})
        drawn[kind] = _drawn(f"{name}-{kind}", (title, description), canvas, height(canvas), draw)
    return PageFigure(name=name, title=title, description=description, **drawn)


def _drawn(name: str, texts: tuple[str, str], canvas: Canvas, height: int, draw: Draw) -> Markup:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell that it looks for fonts
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A font without a glyph of a layer's name: the browser has others.
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(canvas.width / _POINTS, height / _POINTS), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, canvas)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(written.getvalue(), name, texts, canvas.tips)


def _for_page(svg: str, name: str, texts: tuple[str, str], tips: Mapping[str, str]) -> Markup:
    """Return a matplotlib document as an element of the page."""
    root = ElementTree.fromstring(svg)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    for parent in list(root.iter()):
        for child in list(parent):
            # Its style sheet would hold for the whole page.
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _clean(element, name, tips)
    for index, (kind, text) in enumerate(zip(("title", "desc"), texts, strict=True)):
        inside = ElementTree.Element(f"{{{_SVG}}}{kind}", {"id": f"{name}-{kind}"})
        inside.text = text
        root.insert(index, inside)
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-desc",
        "class": "plot",
    }
    ElementTree.register_namespace("", _SVG)
    # Whoever wrote a name into the report, ElementTree has escaped it.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element, name: str, tips: Mapping[str, str]) -> None:
    attributes = element.attrib
    if element.tag != f"{{{_SVG}}}text" and not (element.text or "").strip():
        element.text = None
    element.tail = None  # lines and indents
    tip = tips.get(attributes.get("id", ""))
    if tip is not None:
        del attributes["id"]
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = printable_lines(tip)
        element.insert(0, title)
        attributes["class"] = "mark"
    elif "id" in attributes:
        if element.tag == f"{{{_SVG}}}g":
            del attributes["id"]  # nothing refers to a group
        else:
            attributes["id"] = f"{name}-{attributes['id']}"  # unique in the page
    target = attributes.pop(f"{{{_XLINK}}}href", None)
    if target is not None:
        attributes["href"] = f"#{name}-{target.removeprefix('#')}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
    if "d" in attributes:
        attributes["d"] = _rounded(attributes["d"])
    for place in ("x", "y", "width", "height", "transform"):
        if place in attributes and element.tag != f"{{{_SVG}}}svg":
            attributes[place] = _rounded(attributes[place])
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "style" in attributes:
        attributes["style"] = _page_style(attributes["style"])


def _page_style(style: str) -> str:
    # The page's own font at the figure's size.
    style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)
    style = re.sub(r"font-family: [^;]*;? ?", "", style)
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style


def _rounded(text: str) -> str:
    """Return coordinates to a tenth of a pixel."""
    text = re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), text)
    return re.sub(r"\s+", " ", text).strip()


def shortened(text: str, length: int) -> str:
    """Return a label that fits, with its end, which tells layers apart."""
    text = printable(text)
    if len(text) <= length:
        return text
    head = length // 3
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"
