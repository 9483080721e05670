"""`costs` of report.json: what each layer costs, against the module's own shapes."""

import networks
import pytest
import torch

from edgecompile.artifact import load_bundle


def costs_of(path):
    return load_bundle(path).report_dict()["costs"]


def macs_of(network):
    """Count with hooks while the module itself runs: independent of the graph."""
    module, inputs = getattr(networks, network)()
    counted = []

    def count(layer, _, output):
        positions = output[0, 0].numel() if output.dim() == 4 else output.numel() // output.shape[-1]
        counted.append(layer.weight.numel() * positions)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module.eval()(*inputs)
    return counted


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_each_layer_is_counted(build, precision):
    path = build("small", "--format", "ptl", "--precision", precision)
    found, report = costs_of(path), load_bundle(path).report_dict()
    assert [row["macs"] for row in found["rows"] if row["macs"]] == macs_of("small")
    for name in ("macs", "parameters", "weight_bytes"):
        assert found[name] == sum(row[name] for row in found["rows"])
    if precision == "int8":
        names = [row["name"] for row in report["layers"]["rows"]]
        assert {row["name"] for row in found["rows"]} <= set(names)
        # int8 weights, and biases in four bytes
        assert found["parameters"] < found["weight_bytes"] < 1.5 * found["parameters"]
    else:
        assert found["weight_bytes"] == 4 * found["parameters"] == report["float_weight_bytes"]


def test_weights_of_4_bits_take_half_a_byte(build):
    path = build("mlp", "--precision", "int4-weights", "--format", "onnx", data=None)
    found = costs_of(path)
    module, _ = networks.mlp()
    linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    assert [row["weight_bytes"] for row in found["rows"]] == [
        part.weight.numel() // 2 + 4 * (0 if part.bias is None else part.bias.numel()) for part in linear
    ]


def test_a_weight_of_two_layers_is_counted_once(build):
    found = costs_of(build("tied", "--format", "ptl", "--precision", "fp32", data=None))
    module, _ = networks.tied()
    assert found["parameters"] == sum(part.numel() for part in module.parameters())
