import torch
from check_pass import Net, check_pass, operators
from torch import nn

X = torch.randn(2, 3)


def unused(net, x):
    net.layer(torch.exp(x))
    return torch.relu(x)


def test_calls_and_constants():
    outcome = check_pass("remove-dead-code", Net(unused, layer=nn.Linear(3, 3)), X, rewrites=2)
    assert operators(outcome.program) == ["relu"]
    assert not outcome.program.state_dict


def test_an_unused_input_stays():
    class Two(nn.Module):
        def forward(self, used, unused):
            return used + 1

    check_pass("remove-dead-code", Two(), X, X, rewrites=0)


def test_several_values_of_which_one_is_used():
    check_pass("remove-dead-code", Net(lambda _, x: torch.split(x, 1, 1)[1] * 2), X)


def test_a_model_that_is_all_input():
    check_pass("remove-dead-code", Net(lambda _, x: x), X, rewrites=0)
