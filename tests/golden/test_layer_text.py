"""The table of layers as it stands on a terminal, and what names from elsewhere do to it."""

from __future__ import annotations

from typing import Any

import pytest

from edgecompile.layer_quality import LayerQuality, layer_report
from edgecompile.layer_text import layer_text


def row(name: str, sqnr_db: float | None, own_sqnr_db: float | None, **others: Any) -> LayerQuality:
    values = {
        "kind": name.rstrip("_0123456789"),
        "where": "net.py:12",
        "inputs": (),
        "minimum": -1.25,
        "maximum": 3.0,
        "clipped_share": 0.00125,
        "scale": 0.0173,
        "zero_point": -54,
    }
    return LayerQuality(name=name, sqnr_db=sqnr_db, own_sqnr_db=own_sqnr_db, **values | others)


def in_float(name: str, reason: str) -> LayerQuality:
    kind = name.rstrip("_0123456789")
    return LayerQuality(name=name, kind=kind, where="net.py:9", inputs=(), reason=reason)


ROWS = (
    row("conv2d", 39.94, 39.94, minimum=0.0, clipped_share=0.0, zero_point=-128),
    row("conv2d_1", 33.6, 34.2, where="a_file_with_a_long_name.py:1234"),
    in_float("hardsigmoid", "the engines share no integer kernel for it"),
    in_float("mul", "it broadcasts, which no integer kernel of all engines does"),
    in_float("hardsigmoid_1", "the engines share no integer kernel for it"),
    row("conv2d_2", 31.0, 31.0, kind="convolution", minimum=-0.000256),
    row("conv2d_3", 18.25, 27.4, inputs=("conv2d_2",), minimum=-1234.5, maximum=None, clipped_share=1.0),
    row("view", None, None, scale=0.000244140625, maximum=1e-9),
    row("linear", -100.0, 3.5, clipped_share=1e-6),
)


@pytest.mark.parametrize("width", [80, 110])
def test_the_table(width, check_golden):
    text = layer_text(layer_report(ROWS, 4), width)
    assert max(map(len, text.splitlines())) <= width
    check_golden(f"layers_{width}.txt", text)


def test_names_from_elsewhere_cannot_steer_the_terminal():
    hostile = row("\x1b[31mred", 40, 40, where="[bold]\r\n" + "w" * 9000, kind="\x07")
    report = layer_report([hostile, in_float("b", "[link=x]why\x1b"), row("\x1b]0;title", 3, 3)], 1)
    text = layer_text(report, 80)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "[bold]" in text and "[link=x]" in text and len(text) < 20_000
