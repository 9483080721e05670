"""Every file in targets/ holds what a target promises."""

import tomllib
from typing import get_args

import pytest

from edgecompile import catalogue, shipped
from edgecompile.program import Precision
from edgecompile.target import load_target, target_names, target_settings


@pytest.mark.parametrize("name", target_names())
def test_target(name):
    target = load_target(name)
    assert target.name == name == f"{target.platform}-{target.architecture}"
    assert target.description
    assert target.passes
    assert all(len(entry.reason) > 20 for entry in target.passes), "a reason that says nothing"
    assert target.formats
    origins = {setting.origin for setting in target_settings(name)}
    assert origins == {"target _defaults.toml", f"target {name}.toml"}


@pytest.mark.parametrize("name", target_names())
def test_x86_64_gets_onnx_weights_that_do_not_saturate(name):
    target = load_target(name)
    if "onnx" in target.emit:
        expected = "uint8" if target.architecture == "x86-64" else "int8"
        assert target.emit["onnx"].weight_dtype == expected


@pytest.mark.parametrize("name", target_names())
def test_some_format_can_take_each_precision(name):
    emit = load_target(name).emit.values()
    assert {precision for item in emit for precision in item.precisions} == set(get_args(Precision))
    assert all({"int8", "fp32"} <= set(item.precisions) for item in emit)


@pytest.mark.parametrize("path", sorted(shipped.targets_folder().glob("*")), ids=lambda path: path.name)
def test_only_toml_lies_in_the_folder(path):
    assert path.suffix == ".toml"
    tomllib.loads(path.read_text(encoding="utf-8"))


def test_every_pass_is_run_by_some_target():
    named = {entry.name for name in target_names() for entry in load_target(name).passes}
    assert named == set(catalogue.names("edgecompile.passes"))
