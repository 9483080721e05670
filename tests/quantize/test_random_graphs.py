"""Random networks in every engine: artifacts as close to float as the reference, layer by layer too."""

import pytest
from every_engine import check_every_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import RandomNet, Step, steps

# Each was once wrong.
FOUND: dict[str, list[Step]] = {
    "the delegate took the wrong axis after a convolution": [Step("move", "softmax of rows")],
    "one tensor as several operands": [Step("activation", "relu"), Step("move", "twice")],
    "values beside probabilities had their scale": [Step("move", "probabilities beside"), Step("norm")],
    "the delegate gave out what it had turned": [Step("move", "max pool"), Step("move", "a choice")],
    "a kernel took tokens for a picture": [Step("mlp"), Step("move", "average pool without padding")],
    "another kernel took them so": [Step("mlp"), Step("move", "nearest")],
    "an operator in float read integers": [
        Step("activation", "celu"),
        Step("conv", "", (1, 1, 1, True, False)),
        Step("binary", "sub", (4,)),
        Step("conv", "", (2, 1, 1, True, False)),
    ],
    "shared scales were looked for in a circle": [
        Step("activation", "selu"),
        Step("binary", "cat", (4,)),
        Step("move", "halves"),
        Step("binary", "cat", (2,)),
        Step("conv", "", (4, 3, 1, False, False)),
        Step("move", "halves"),
        Step("lstm"),
        Step("binary", "cat", (4,)),
    ],
    "a constant mask lost what it masks whole": [Step("masked attention")],
    "layers with equal weights": [
        Step("move", "means"),
        Step("norm"),
        Step("activation", "silu"),
        Step("norm"),
    ],
}


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(program=steps, seed=st.integers(0, 3))
def test_every_engine_computes_random_networks(program, seed):
    # A reference that is wrong is no more than noise.
    check_every_engine(RandomNet(program, seed), 1, 3, 8, 8, least_db=1)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name):
    check_every_engine(RandomNet(FOUND[name], 0), 1, 3, 8, 8)
