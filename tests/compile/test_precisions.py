"""Precisions that need no calibration: whole builds of an MLP, a transformer block and a small CNN."""

import json

import networks
import pytest
import torch

from edgecompile.artifact import CONSTANTS, PROGRAM, load_bundle
from edgecompile.compare import closeness
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.errors import LoweringFailedError
from edgecompile.evaluate import Ran, quality_rows
from edgecompile.inspect_artifact import inspect
from edgecompile.program import QuantizedProgram
from edgecompile.program_file import read_program
from edgecompile.quantize.reference import Reference
from edgecompile.target import load_target

FORMATS = {
    "int8-dynamic": ("pte", "ptl", "onnx"),
    "int8-weights": ("pte", "ptl", "onnx"),
    "int4-weights": ("onnx",),
}
# Of 8 bits some 40 dB remain, of 4 some 20, for a layer; three or more layers add up.
LEAST_SQNR_DB = {"int8-dynamic": 35, "int8-weights": 40, "int4-weights": 15}
# 8 bits, or 4 and a float32 scale for 32, of the 32 bits of a float; a network of kilobytes is half headers.
WEIGHT_SHARE = {"int8-dynamic": 8 / 32, "int8-weights": 8 / 32, "int4-weights": 4 / 32}


@pytest.fixture(scope="module")
def bundles(build):
    """Build each network in each precision once, for android-arm64, without calibration data."""
    made = {}

    def bundle(network, precision, *options):
        key = (network, precision, options)
        if key not in made:
            formats = [part for name in FORMATS.get(precision, ()) for part in ("--format", name)]
            made[key] = build(network, "--precision", precision, *formats, *options, data=None)
        return made[key]

    return bundle


def contents_of(path):
    return inspect(path).artifacts[0].contents


def program_of(bundle):
    return QuantizedProgram(
        name="mlp",
        precision=bundle.manifest.precision,
        exported=read_program(bundle.read(PROGRAM), bundle.read(CONSTANTS), bundle.path),
        float_weight_bytes=0,
        unquantized=(),
        steps=(),
    )


def weight_elements(network):
    model, _ = getattr(networks, network)()
    return sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))


def is_mean(layer):
    """Tell whether a layer is a mean within a layer norm, as a product with a row of 1 / width."""
    return layer.where == "xnnpack" and layer.shape is not None and layer.shape[-1] == 1


@pytest.mark.parametrize("network", ["mlp", "block"])
@pytest.mark.parametrize("precision", FORMATS)
def test_artifacts_are_small_and_as_good_as_their_reference(bundles, network, precision):
    path = bundles(network, precision)
    bundle, report = load_bundle(path), json.loads((path / "report.json").read_text())
    assert bundle.manifest.precision == report["precision"] == precision
    assert f"for android-arm64, {precision}" in (path / "report.txt").read_text()
    assert [artifact.format for artifact in bundle.artifacts] == list(FORMATS[precision])
    for row in report["quality"][1:]:
        assert row["missed"] == [] and row["against_float"]["sqnr_db"] > LEAST_SQNR_DB[precision], row
    for artifact in bundle.artifacts:
        contents = contents_of(path / artifact.path)
        layers = [layer for layer in contents.layers if layer.weight_bytes and not is_mean(layer)]
        stored = sum(layer.weight_bytes for layer in layers)
        assert stored == weight_elements(network) * 4 * WEIGHT_SHARE[precision], artifact.format
        assert {layer.integer for layer in layers} == {precision == "int8-dynamic"}
        scales = 4 * weight_elements(network) / 32 if precision == "int4-weights" else 0
        # What is left: scales, biases, the other operators.
        assert artifact.size_bytes < stored + scales + {"mlp": 20e3, "block": 45e3}[network]


@pytest.mark.parametrize("network", ["mlp", "block"])
@pytest.mark.parametrize("precision", FORMATS)
def test_validation_passes(bundles, cli, network, precision):
    finished = cli("validate", bundles(network, precision), "--json")
    assert finished.status == 0, finished.err
    found = json.loads(finished.out)
    layers = {"mlp": 3, "block": 7}[network]
    if precision != "int8-dynamic":
        assert found["layers"] == {}, "no integers to compare: the outputs are held to the reference"
        return
    assert list(found["layers"]) == list(FORMATS[precision])
    for rows in found["layers"].values():
        assert len(rows) == layers and all(row["passed"] and row["within"] == 1 for row in rows)


@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights"])
def test_weight_only_engines_compute_the_reference_in_float(bundles, precision):
    """Engines sum in float32 in different orders: 24 bits, of which a sum of 256 loses at most 8."""
    bundle = load_bundle(bundles("mlp", precision))
    model, (value,) = networks.mlp()
    expected = model(value).detach()
    outputs = [
        load_engine(item.engine).load(bundle.read(item.path), precise=True).run((value,))[0]
        for item in bundle.artifacts
    ]
    for output in outputs:
        torch.testing.assert_close(output, outputs[0], rtol=2**-16, atol=2**-16)
        assert closeness([(output,)], [(expected,)]).sqnr_db > LEAST_SQNR_DB[precision]


def test_an_engine_that_rounds_what_it_should_not_misses_the_threshold():
    """As ONNX Runtime does when it quantizes activations unasked: 46 dB, as good as the float model's own."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(64, 10, generator=generator)
    noisy = exact + 0.005 * torch.randn(64, 10, generator=generator)
    floats = [(exact + 0.1 * torch.randn(64, 10, generator=generator),)]
    ran = Ran(name="onnx", format="onnx", engine="onnxruntime", native=False, outputs=[(noisy,)])
    samples = [Sample(inputs=(), label=None)]
    settings = load_target("android-arm64").validation
    missed = {
        precision: quality_rows(
            [ran], {"exact": [(exact,)]}, samples, floats, precision=precision, settings=settings
        )[-1].missed
        for precision in ("int8-dynamic", "int8-weights", "int4-weights")
    }
    assert missed["int8-dynamic"] == ()
    for precision in ("int8-weights", "int4-weights"):
        (text,) = missed[precision]
        assert text.startswith("SQNR against the reference 4") and text.endswith("below 90.00 dB")


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights"])
def test_an_mlp_is_delegated_whole(bundles, precision):
    report = json.loads((bundles("mlp", precision) / "report.json").read_text())
    pte = next(item for item in report["artifacts"] if item["format"] == "pte")
    assert pte["delegates"] == {"xnnpack": 1}
    assert [row for row in report["why_not"] if row["stage"] == "emit pte"] == []


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights"])
def test_no_linear_layer_of_a_block_is_outside_the_delegate(bundles, precision):
    path = bundles("block", precision)
    contents = contents_of(path / "networks.pte")
    layers = [layer for layer in contents.layers if not is_mean(layer)]
    linears = [layer for layer in layers if layer.kind == "linear" and layer.weight_bytes]
    assert len(linears) == 7 and {layer.where for layer in linears} == {"xnnpack"}
    why_not = json.loads((path / "report.json").read_text())["why_not"]
    outside = {row["what"].split()[0] for row in why_not if row["stage"] == "emit pte"}
    assert not contents.outside_delegate and not outside, "attention and norms are inside, too"
    attention = [row for row in why_not if row["stage"] == "quantize"]
    assert [row["reason"] for row in attention] == (
        ["both its operands are computed at run time"] if precision == "int8-dynamic" else []
    )


def test_onnx_runs_integer_kernels_and_shares_the_quantization_of_an_input(bundles):
    contents = contents_of(bundles("block", "int8-dynamic") / "networks.onnx")
    assert contents.operators["MatMulInteger"] == 7
    assert contents.operators["DynamicQuantizeLinear"] == 5, "query, key and value read the same"
    assert contents.executed_integer_layers == 7


def test_onnx_computes_float_weights_at_load(bundles):
    """Cast and Mul are gone in the graph that runs; a DequantizeLinear would quantize activations unasked."""
    contents = contents_of(bundles("mlp", "int8-weights") / "networks.onnx")
    assert contents.operators["Cast"] == contents.operators["Mul"] == 3
    assert not {"Cast", "Mul", "MatMulNBits"} & set(contents.optimized_operators)


def test_4_bits_are_multiplied_in_float32(bundles):
    import onnx

    model = onnx.load(bundles("mlp", "int4-weights") / "networks.onnx")
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    attributes = [{item.name: item.i for item in node.attribute} for node in products]
    assert [item["accuracy_level"] for item in attributes] == [1, 1, 1]
    assert {item["block_size"] for item in attributes} == {32}


def test_convolutions(bundles):
    """`small` is all convolutions but its head: stored in 8 bits where the format can, and said where not."""
    path = bundles("small", "int8-weights")
    report = json.loads((path / "report.json").read_text())
    reasons = {
        stage: {row["what"].split()[0] for row in report["why_not"] if row["stage"] == stage}
        for stage in ("quantize", "emit pte", "emit ptl", "emit onnx")
    }
    assert reasons == {
        "quantize": set(),
        "emit pte": {"conv2d"},
        "emit ptl": {"conv2d", "linear"},
        "emit onnx": set(),
    }
    dtypes = {
        item.format: {
            layer.weight_dtype for layer in contents_of(path / item.path).layers if layer.weight_dtype
        }
        for item in load_bundle(path).artifacts
    }
    assert dtypes == {"pte": {"float32", "int8"}, "ptl": {"int8"}, "onnx": {"int8"}}
    assert not any(row["missed"] for row in report["quality"])


@pytest.mark.parametrize("precision", FORMATS)
def test_a_weight_that_several_layers_share_is_stored_once(bundles, precision):
    bundle = load_bundle(bundles("tied", precision))
    for artifact in bundle.artifacts:
        assert artifact.size_bytes < 256 * 256 + 35e3, artifact.format
    report = json.loads((bundle.path / "report.json").read_text())
    assert all(row["missed"] == [] for row in report["quality"])


def test_nothing_to_quantize(bundles, cli):
    """A network without a linear layer stays as it is; its rows and its validation say so."""
    path = bundles("convolution", "int8-dynamic")
    report = json.loads((path / "report.json").read_text())
    rows = [(row["what"], row["reason"]) for row in report["why_not"] if row["stage"] == "quantize"]
    assert rows == [("conv2d (conv2d)", "only linear layers are quantized at run time")]
    finished = cli("validate", path)
    assert finished.status == 0 and "layer by layer" not in finished.out


@pytest.mark.parametrize("precision", FORMATS)
def test_dynamic_batch(bundles, precision):
    """Any batch is as the reference computes it, but for a step in one value: below quantization's noise."""
    bundle = load_bundle(bundles("mlp", precision, "--dynamic-batch"))
    exported = program_of(bundle).exported
    for artifact in bundle.artifacts:
        engine = load_engine(artifact.engine)
        session = engine.load(bundle.read(artifact.path), precise=True)
        for batch in (3, 40, 1):
            value = torch.randn(batch, 96, generator=torch.Generator().manual_seed(batch))
            expected = Reference(exported, engine.arithmetic).run((value,))
            assert closeness([session.run((value,))], [expected]).sqnr_db > 45, artifact.format


def test_the_same_bytes_whatever_the_cache_holds(build):
    """The precision is in the cache's keys: five precisions in one cache, each as alone."""
    kept = {
        precision: build("mlp", "--precision", precision, "--format", "onnx", data=None)
        for precision in (*FORMATS, "fp32")
    }
    data = {name: (path / "networks.onnx").read_bytes() for name, path in kept.items()}
    assert len(set(data.values())) == len(data)
    for precision, expected in data.items():
        fresh = build("mlp", "--precision", precision, "--format", "onnx", "--no-cache", data=None)
        assert (fresh / "networks.onnx").read_bytes() == expected


def test_the_plan_shows_the_precision_and_what_formats_can_take(cli):
    arguments = [
        "build",
        f"{networks.__file__}:mlp",
        "--target",
        "android-arm64",
        "--precision",
        "int8-weights",
    ]
    finished = cli(*arguments, "--plan", "--json")
    settings = {row["name"]: row["value"] for row in json.loads(finished.out)["plan"]}
    assert settings["precision"] == "int8-weights"
    assert "int4-weights" in settings["android-arm64: emit.onnx.precisions"]
    assert settings["android-arm64: quantization.weight_group_size"] == 32


def test_an_emitter_without_the_kernel_refuses(bundles):
    """Settings are checked before; a program that comes to an emitter another way fails by name."""
    program = program_of(load_bundle(bundles("mlp", "int4-weights")))
    settings = load_target("android-arm64").emit["ptl"]
    with pytest.raises(LoweringFailedError):
        load_emitter(settings.emitter).emit(program, settings)
