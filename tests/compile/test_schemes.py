"""What a user may say of quantization: the built artifacts have it, and equal the reference as before."""

import itertools
import json
import math

import networks
import pytest

from edgecompile.artifact import load_bundle
from edgecompile.program_file import read_program
from edgecompile.quantize.layers import quantized_layers
from edgecompile.validate import validate

NETWORKS = networks.__file__


def _parameters(layers):
    return [item for layer in layers for item in (*layer.input_parameters, layer.output_parameters)]


def _are_symmetric(layers):
    return all(item.zero_point == 0 for item in _parameters(layers))


def _are_powers_of_two(layers):
    scales = [item.scale for item in _parameters(layers)]
    scales += [scale for layer in layers if layer.weights for scale in layer.weights.scales.tolist()]
    return all(math.frexp(scale)[0] == 0.5 for scale in scales)


def _largest_weights(layers):
    return {int(layer.weights.weight.abs().max()) for layer in layers if layer.weights}


SCHEMES = {
    "activation_symmetry=symmetric": _are_symmetric,
    "power_of_two_scales=true": _are_powers_of_two,
    "weight_bits=7": lambda layers: _largest_weights(layers) == {63},
    "weight_granularity=per-tensor": lambda layers: all(
        len(set(layer.weights.scales.tolist())) == 1 for layer in layers if layer.weights
    ),
    # Clipped weights use the last integer in every layer all the same.
    "weight_observer=mse": lambda layers: _largest_weights(layers) == {127},
}


def _layers(bundle):
    program = read_program(bundle.read("program.json"), bundle.read("program.npz"), bundle.path)
    return quantized_layers(program)


def test_none_of_the_schemes_is_the_default(build):
    layers = _layers(load_bundle(build("small", "--format", "ptl")))
    assert _largest_weights(layers) == {127}
    kept = {said for said, holds in SCHEMES.items() if holds(layers)}
    assert kept == {"weight_observer=mse"}


@pytest.mark.parametrize(
    ("said", "target"), [*zip(SCHEMES, itertools.cycle(["android-arm64", "linux-x86-64"]), strict=False)]
)
def test_every_scheme_is_in_the_artifacts_and_equals_the_reference(build, said, target):
    # The scheme alone: with powers of two, results halfway between two integers are rounded to either side,
    # and in a network with so few outputs, as exact as corrections make it, that can be more than 1 dB.
    steps = ("equalization", "bias_absorption", "bias_correction")
    plain = (*(f"{step}=false" for step in steps), "weight_rounding=nearest")
    options = [part for item in (said, *plain) for part in ("--quantization", item)]
    folder = build("small", *options, target=target)
    layers = _layers(load_bundle(folder))
    assert len(layers) == 7 and SCHEMES[said](layers)
    found = validate(folder)
    assert found.passed and set(found.layers) == {"pte", "ptl", "onnx"}
    for rows in found.layers.values():
        assert all(row.identical == 1 for row in rows if row.exact or row.kind in ("conv2d", "linear"))
        assert all(row.within == 1 for row in rows)


def test_the_manifest_and_the_config_file_say_what_was_said(cli, tmp_path):
    config = tmp_path / "edgecompile.toml"
    config.write_text(
        f'target = ["ios-arm64"]\nformat = ["ptl"]\ncalibration = "{NETWORKS}:pictures"\n'
        "[quantization]\nweight_bits = 6\npower_of_two_scales = true\n"
    )
    options = ("--config", config, "--output", tmp_path / "out", "--quantization", "weight_bits=5")
    finished = cli("build", f"{NETWORKS}:small", *options)
    assert finished.status == 0, finished.err
    bundle = load_bundle(tmp_path / "out/ios-arm64")
    said = {entry.name: (entry.value, entry.origin) for entry in bundle.manifest.settings}
    assert said["quantization.weight_bits"] == (5, "flag --quantization")
    assert said["quantization.power_of_two_scales"] == (True, f"config {config}")
    layers = _layers(bundle)
    assert 7 < max(_largest_weights(layers)) <= 15 and _are_powers_of_two(layers)


def test_one_calibration_serves_all_that_choose_from_the_same_histogram(cli, tmp_path):
    def calibrates(observer):
        finished = cli(
            *("build", f"{NETWORKS}:other", "--target", "ios-arm64", "--format", "ptl"),
            *("--calibration", f"{NETWORKS}:pictures", "--output", tmp_path),
            *("--quantization", f"activation_observer={observer}", "--json"),
        )
        assert finished.status == 0, finished.err
        artifacts.add(load_bundle(tmp_path / "ios-arm64").artifacts[0].sha256)
        rows = {row["name"]: row for row in json.loads(finished.out)["bundles"][0]["quality"]}
        assert rows["ptl"]["against_float"]["sqnr_db"] > 20
        (line,) = (line for line in finished.err.splitlines() if line.startswith("calibrate"))
        return not line.endswith("reused")

    artifacts = set()
    # `mse` weighs each value by how much its channel matters.
    observers = ("histogram", "percentile", "mse", "entropy", "min-max", "moving-average")
    assert [calibrates(name) for name in observers] == [True, False, True, False, True, True]
    assert len(artifacts) == len(observers)
