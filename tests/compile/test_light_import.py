"""What stands in for Inductor and a YAML parser while ExecuTorch is imported does the same, then is gone."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import pytest
import torch
from torch.fx import Graph, GraphModule

from edgecompile.emitters import _known_versions
from edgecompile.emitters._light_import import OperatorTable, decompose_auto_functionalized


def run(code: str) -> list[str]:
    """Run code in a fresh process and return the words that it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


LIGHTLY = """
import sys
from edgecompile.emitters import _known_versions, _light_import
if {unknown}:
    _known_versions._KNOWN_VERSIONS.clear()
_light_import.import_executorch()
from executorch.exir.dialects.edge import _ops
print("torch._inductor.lowering" in sys.modules, "ruamel.yaml" in sys.modules, _ops.YAML.__module__)
from torch._inductor.fx_passes.post_grad import decompose_auto_functionalized
from ruamel.yaml import YAML
print(decompose_auto_functionalized.__module__, YAML.__module__)
"""
REAL = ["torch._inductor.fx_passes.post_grad", "ruamel.yaml.main"]


@pytest.mark.slow
def test_nothing_stands_in_after_the_import():
    assert run(LIGHTLY.format(unknown=False)) == ["False", "False", OperatorTable.__module__, *REAL]


@pytest.mark.slow
def test_an_unknown_version_imports_the_real_modules():
    assert run(LIGHTLY.format(unknown=True)) == ["True", "True", "ruamel.yaml.main", *REAL]


def test_the_installed_versions_are_known():
    assert _known_versions.is_known("executorch", "torch")


def test_the_table_of_operators_is_read_as_a_yaml_parser_reads_it():
    from ruamel.yaml import YAML

    text = resources.files("executorch.exir.dialects.edge").joinpath("edge.yaml").read_text("utf-8")
    assert OperatorTable().load(text) == YAML(typ="safe").load(text)


def test_what_inductor_changes_is_left_to_it():
    """An attribute that nothing uses is removed."""
    graph = Graph()
    graph.get_attr("unused")
    graph.output(graph.placeholder("x"))
    root = torch.nn.Module()
    root.unused = GraphModule(torch.nn.Module(), Graph())
    module = GraphModule(root, graph)
    decompose_auto_functionalized(module.graph)
    assert not module.graph.find_nodes(op="get_attr")
