import pytest
import torch
from check_pass import Net, check_pass, operators
from torch import nn

X = torch.randn(2, 6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        (nn.GRUCell, {"sigmoid", "tanh", "sub"}),
        (nn.LSTMCell, {"sigmoid", "tanh"}),
        (nn.RNNCell, {"tanh"}),
        (lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options), {"relu"}),
    ],
)
def test_cells_are_linear_layers_and_gates(cell, gates, bias, dynamic):
    layer = cell(6, 4, bias=bias)
    is_pair = isinstance(layer, nn.LSTMCell)

    def step(net, x):
        state = x[:, :4].tanh()
        return net.layer(x, (state, state * 2) if is_pair else state)

    program = check_pass(
        "unroll-cells", Net(step, layer=layer), X, dynamic_batch=dynamic, rewrites=1 + is_pair
    )
    found = operators(program.program)
    assert found.count("linear") == 2
    assert gates <= set(found)
    assert not any("cell" in name for name in found)


def test_what_nobody_reads_of_a_state_is_not_computed():
    net = Net(lambda net, x: net.layer(x)[1], layer=nn.LSTMCell(6, 4))
    assert operators(check_pass("unroll-cells", net, X).program).count("tanh") == 1


def test_layers_over_sequences_stay():
    net = Net(lambda net, x: net.layer(x[:, None])[0], layer=nn.GRU(6, 4))
    check_pass("unroll-cells", net, X, rewrites=0)


@pytest.mark.parametrize("biases", [(), (0,), (0, 1)])
def test_biases_are_known_by_their_place(biases):
    parts = {f"bias_{index}": torch.randn(12) for index in biases}
    net = Net(
        lambda net, x: torch.gru_cell(
            x, x[:, :4], net.of_x, net.of_h, *(getattr(net, name) for name in parts)
        ),
        of_x=torch.randn(12, 6),
        of_h=torch.randn(12, 4),
        **parts,
    )
    check_pass("unroll-cells", net, X, rewrites=1)
