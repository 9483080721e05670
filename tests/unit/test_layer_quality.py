"""Where quality falls, and what a report from elsewhere may hold."""

import json
from pathlib import Path

import pytest

from edgecompile.errors import ConfigurationErrors, InvalidReportError
from edgecompile.layer_quality import LayerQuality, layer_report, read_layer_report


def row(name, inputs, sqnr_db, own_sqnr_db, **others):
    values = {
        "kind": name.rstrip("_0123456789"),
        "where": "net.py:12",
        "minimum": -1.25,
        "maximum": 3.0,
        "clipped_share": 0.00125,
        "scale": 0.0173,
        "zero_point": -54,
    }
    return LayerQuality(name=name, inputs=inputs, sqnr_db=sqnr_db, own_sqnr_db=own_sqnr_db, **values | others)


def in_float(name, inputs, reason):
    kind = name.rstrip("_0123456789")
    return LayerQuality(name=name, kind=kind, where="", inputs=inputs, reason=reason)


FALLS = {
    "nothing falls": ([("a", ("x",), 40, 40), ("b", ("a",), 34, 38), ("c", ("b",), 30, 36)], None),
    "many small losses": ([(str(at), (str(at - 1),), 40 - 2 * at, 36) for at in range(16)], None),
    "one loses by itself": ([("a", ("x",), 40, 40), ("b", ("a",), 12, 12), ("c", ("b",), 3, 3)], "b"),
    "just enough": ([("a", ("x",), 25, 25), ("b", ("a",), 15.1, 25)], None),
    "errors grow": ([("a", ("x",), 34, 40), ("b", ("a",), 24, 30)], "b"),
    "a fall to a good value": ([("a", ("x",), 48, 48), ("b", ("a",), 30, 35)], None),
    "no error before it": ([("a", ("x",), None, None), ("b", ("a",), 20, 30)], "b"),
    "the worse input counts": (
        [("a", ("x",), 40, 40), ("b", ("x",), 26, 26), ("c", ("a", "b"), 18, 40), ("d", ("a",), 18, 40)],
        "d",
    ),
    "the first in order": ([("a", ("x",), 40, 40), ("b", ("a",), 20, 20), ("c", ("a",), 1, 1)], "b"),
    "all that is read is the model's": ([("a", ("x",), 10, 30)], None),
}


@pytest.mark.parametrize("case", FALLS)
def test_where_quality_falls(case):
    rows, expected = FALLS[case]
    assert layer_report([row(*item) for item in rows], 4).first_fall == expected


def test_an_operator_in_float_neither_falls_nor_says_what_came_before():
    rows = [row("a", ("x",), 40, 40), in_float("sigmoid", ("a",), "why"), row("b", ("sigmoid",), 20, 30)]
    assert layer_report(rows, 4).first_fall is None


def report():
    rows = [
        row("conv2d", ("x",), 40.0, None),
        in_float("sigmoid", ("conv2d",), "why"),
        row("conv2d_1", ("sigmoid",), 3.0, -100.0, minimum=None),
    ]
    return layer_report(rows, 4)


def test_it_survives_json():
    document = json.loads(json.dumps({"layers": report().to_dict()}, allow_nan=False))
    assert read_layer_report(document, Path("report.json")) == report()


def test_a_report_of_an_earlier_version_says_what_to_do():
    with pytest.raises(InvalidReportError) as caught:
        read_layer_report({"name": "net"}, Path("b/report.json"))
    assert "build the bundle again" in caught.value.render() and "b/report.json" in caught.value.render()


DAMAGE = {
    "no object": ([], None),
    "another key": ({"more": 1}, None),
    "samples": ({"samples": "4"}, None),
    "rows": ({"rows": {}}, None),
    "a key of a row": ({}, {"more": 1}),
    "no number": ({}, {"sqnr_db": "low"}),
    "infinity": ({}, {"own_sqnr_db": float("inf")}),
    "share": ({}, {"clipped_share": 1.5}),
    "scale": ({}, {"scale": -1.0}),
    "zero point": ({}, {"zero_point": 0.5}),
    "name": ({}, {"name": None}),
    "inputs": ({}, {"inputs": [1]}),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_report_is_refused(case):
    layers, first_row = DAMAGE[case]
    document = json.loads(json.dumps(report().to_dict()))
    document["rows"][0] |= first_row or {}
    document = layers if isinstance(layers, list) else document | layers
    with pytest.raises((InvalidReportError, ConfigurationErrors)) as caught:
        read_layer_report({"layers": document}, Path("b/report.json"))
    assert "error[invalid-report]" in caught.value.render() and "b/report.json" in caught.value.render()
