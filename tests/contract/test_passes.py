"""What every file of passes/ owes, without naming any."""

import inspect
import tomllib

import pytest
import torch
from torch.export import export

from edgecompile import catalogue, shipped
from edgecompile.graph_pass import run_pass

NAMES = catalogue.names("edgecompile.passes")


class AlmostNothing(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_explains_itself(name):
    found = catalogue.load("edgecompile.passes", name)
    text = inspect.getdoc(found)
    assert text is not None
    for word in ("Before:", "After:", "Declines when"):
        assert word in text
    assert catalogue.summary("edgecompile.passes", name)
    own = [item for _, item in inspect.getmembers(inspect.getmodule(found), inspect.isclass)]
    public = [
        item for item in own if item.__module__ == found.__module__ and not item.__name__.startswith("_")
    ]
    assert public == [found]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_do(name):
    program = export(AlmostNothing(), (torch.rand(1, 3, 4, 4),))
    outcome = run_pass(name, program)
    assert (outcome.rewrites, outcome.declined) == (0, ())
    assert [node.target for node in outcome.program.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.tanh.default
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_run_it_and_say_why(name):
    defaults = tomllib.loads((shipped.targets_folder() / "_defaults.toml").read_text(encoding="utf-8"))
    reasons = {entry["name"]: entry["reason"] for entry in defaults["passes"]}
    assert reasons.get(name)
