"""Parts under `no_grad` and a switched-off `autocast` are captured as what they compute."""

import pytest
import torch
from torch import nn

from edgecompile.capture import capture
from edgecompile.errors import CaptureFailedError
from edgecompile.program import SourceModel


class Cast(nn.Module):
    """A linear layer, and again under a context manager that is nested."""

    def __init__(self, context):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.context = context

    def forward(self, x):
        x = self.layer(x)
        with self.context():
            y = x.float() * 2
            with torch.autocast("cuda", enabled=False):
                y, z = self.layer(y), y + 1
        return y + z + x


def captured(context):
    x = torch.randn(2, 4)
    module = Cast(context).eval()
    source = SourceModel(name="net", module=module, exported=None, example_inputs=(x,))
    return capture(source, dynamic_batch=False).exported, module, x


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autocast("cpu", enabled=False),
        lambda: torch.autocast("cuda", dtype=torch.float16),
        torch.no_grad,
        torch.enable_grad,
    ],
)
def test_they_are_part_of_the_graph(context):
    exported, module, x = captured(context)
    exported.validate()
    assert [node for node in exported.graph.nodes if node.op == "get_attr"] == []
    assert torch.equal(exported.module()(x), module(x))


def test_autocast_that_is_on_is_refused():
    with pytest.raises(CaptureFailedError, match="autocast"):
        captured(lambda: torch.autocast("cpu", dtype=torch.bfloat16))
