"""Dynamic sizes: sequences and pictures of several sizes, in every format, with their bounds."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import dynamic_networks
import onnx
import pytest
import torch
from dynamic_networks import LENGTHS, PICTURES, STEPS, picture, text

from edgecompile.artifact import interface_of, load_bundle, write_manifest
from edgecompile.capture import capture, load_model
from edgecompile.compare import closeness
from edgecompile.dataset import load_dataset
from edgecompile.dynamic_size import DynamicSize, parse_dynamic
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.errors import (
    CaptureFailedError,
    DataMismatchError,
    EngineFailedError,
    InvalidDynamicSizeError,
    InvalidManifestError,
)
from edgecompile.goldens import read_goldens
from edgecompile.graph_pass import run_passes
from edgecompile.program_entry import can_keep, program_text
from edgecompile.program_entry import read_program as read_kept_program
from edgecompile.program_file import constants_to_npz, read_program, to_text
from edgecompile.progress import QuietProgress
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.reference import Reference
from edgecompile.quantize.static_int8 import quantize
from edgecompile.signature import input_specs, inputs_of, outputs_of, random_dataset
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")
SPEC = dynamic_networks.__file__
BATCH = {"tokens:0": "batch:1..4", "mask:0": "batch"}
SIZES = {
    "encoder": {"tokens:1": "length:1..32", "mask:1": "length"} | BATCH,
    "convolutions": {"image:0": "batch:1..4", "image:2": "height:8..24", "image:3": "width:8..40"},
    "unet": {"image:0": "batch:1..4", "image:2": "height:8..24:4", "image:3": "width:8..32:8"},
}
DATA = {"encoder": "texts", "convolutions": "pictures", "unet": "pictures_in_steps"}
INPUTS = {
    "encoder": [text(1, 50), text(2, 51, 3), text(17, 52), text(32, 53, 4)],
    "convolutions": [(picture(*size, seed),) for seed, size in enumerate(((8, 8), (9, 31), (24, 40)))]
    + [(picture(13, 22, 9, batch=4),)],
    "unet": [(picture(*size, seed),) for seed, size in enumerate(((8, 8), (12, 24), (24, 32)))]
    + [(picture(16, 8, 9, batch=4),)],
}


def captured(network, sizes):
    return capture(load_model(f"{SPEC}:{network}"), dynamic_batch=False, dynamic=parse_dynamic(sizes, "test"))


@cache
def quantized(network):
    program = run_passes(captured(network, SIZES[network]), [entry.name for entry in TARGET.passes])
    data = load_dataset(f"{SPEC}:{DATA[network]}", input_specs(program.exported))
    return quantize(program, data, TARGET.quantization, QuietProgress())


@cache
def emitted(network, name):
    settings = TARGET.emit[name]
    return load_emitter(settings.emitter).emit(quantized(network), settings)


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("name", ["pte", "ptl", "onnx"])
def test_every_engine_takes_every_size(network, name):
    """The INT8 artifact computes what the reference does, batches too, and is as close to float."""
    artifact = emitted(network, name)
    engine = load_engine(artifact.engine)
    session = engine.load(artifact.data, precise=True)
    reference = Reference(quantized(network).exported, engine.arithmetic)
    module = load_model(f"{SPEC}:{network}").module
    with torch.no_grad():
        floats = [torch.utils._pytree.tree_leaves(module(*inputs)) for inputs in INPUTS[network]]
    found = [session.run(inputs) for inputs in INPUTS[network]]
    expected = [reference.run(inputs) for inputs in INPUTS[network]]
    assert [[value.shape for value in row] for row in found] == [
        [value.shape for value in row] for row in floats
    ]
    assert closeness(found, floats).sqnr_db > closeness(expected, floats).sqnr_db - 1
    assert closeness(found, expected).sqnr_db > 30


def test_what_the_delegate_cannot_reshape_is_told():
    rows = emitted("encoder", "pte").declined
    assert any("outside the delegate" in row.reason and "view" in row.what for row in rows)
    for network in ("convolutions", "unet"):
        assert emitted(network, "pte").delegates == {"xnnpack": 1}


def test_the_pte_refuses_what_does_not_fit_its_memory():
    artifact = emitted("convolutions", "pte")
    session = load_engine(artifact.engine).load(artifact.data, precise=True)
    with pytest.raises(EngineFailedError):
        session.run((picture(64, 80, 0, batch=4),))
    assert session.run((picture(24, 40, 0, batch=4),))[0].shape == (4, 4, 12, 20)


def test_sizes_of_inputs_and_outputs_have_names_and_bounds():
    exported = quantized("convolutions").exported
    (image,), (mapped, classes) = inputs_of(exported), outputs_of(exported)
    assert image.shape == (None, 3, None, None)
    batch = DynamicSize(axis=0, name="batch", minimum=1, maximum=4)
    assert image.dynamic == (
        batch,
        DynamicSize(axis=2, name="height", minimum=8, maximum=24),
        DynamicSize(axis=3, name="width", minimum=8, maximum=40),
    )
    assert [(size.minimum, size.maximum) for size in mapped.dynamic] == [(1, 4), (4, 12), (4, 20)]
    assert "height" in mapped.dynamic[1].name and classes.dynamic == (batch,)


def test_sizes_in_steps_have_names_and_bounds():
    exported = quantized("unet").exported
    (image,), (mapped,) = inputs_of(exported), outputs_of(exported)
    assert image.dynamic[1:] == mapped.dynamic[1:]  # not "4*(height/4)"
    assert image.dynamic[1:] == (
        DynamicSize(axis=2, name="height", minimum=8, maximum=24, step=4),
        DynamicSize(axis=3, name="width", minimum=8, maximum=32, step=8),
    )
    model = onnx.load_from_string(emitted("unet", "onnx").data)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims][2:] == ["height", "width"]


@pytest.mark.parametrize("form", [program_text, to_text])
def test_a_program_in_steps_is_read_back(tmp_path, form):
    exported = quantized("unet").exported
    assert can_keep(exported)
    if form is program_text:
        again = read_kept_program(program_text(exported), constants_of(exported))
    else:
        again = read_program(
            to_text(exported).encode(), constants_to_npz(exported), tmp_path / "program.json"
        )
    assert inputs_of(again) == inputs_of(exported) and outputs_of(again) == outputs_of(exported)
    inputs = INPUTS["unet"][1]
    found, expected = (program.module(check_guards=False)(*inputs) for program in (again, exported))
    assert torch.equal(torch.utils._pytree.tree_leaves(found)[0], expected)


def test_a_program_is_read_back_with_its_sizes(tmp_path):
    exported = quantized("encoder").exported
    again = read_program(to_text(exported).encode(), constants_to_npz(exported), tmp_path / "program.json")
    assert inputs_of(again) == inputs_of(exported)
    inputs = text(7, 0, batch=2)
    (found,) = again.module(check_guards=False)(*inputs)
    assert torch.equal(found, exported.module(check_guards=False)(*inputs)) and found.shape == (2, 3)


def test_noise_has_several_sizes_that_fit_together():
    data = random_dataset(input_specs(captured("encoder", SIZES["encoder"]).exported))
    shapes = [[tuple(value.shape) for value in sample.inputs] for sample in data.samples]
    assert shapes[0] == [(1, 1), (1, 1)] and shapes[-1] == [(1, 32), (1, 32)]
    assert all(tokens == mask for tokens, mask in shapes)
    data = random_dataset(input_specs(captured("unet", SIZES["unet"]).exported))
    heights = [sample.inputs[0].shape[2] for sample in data.samples]
    assert (heights[0], heights[-1]) == (8, 24) and all(height % 4 == 0 for height in heights)


def built(cli, output, network, data, sizes):
    given = ("--target", "linux-x86-64", "--calibration", f"{SPEC}:{data}", "--output", output)
    finished = cli("build", f"{SPEC}:{network}", *given, *sizes)
    assert finished.status == 0, finished.err
    return output / "linux-x86-64"


@pytest.fixture(scope="module")
def bundle(cli, tmp_path_factory):
    return built(cli, tmp_path_factory.mktemp("dynamic"), "convolutions", "pictures", PICTURES)


@pytest.fixture(scope="module")
def bundle_in_steps(cli, tmp_path_factory):
    return built(cli, tmp_path_factory.mktemp("steps"), "unet", "pictures_in_steps", STEPS)


def test_a_bundle_tells_its_sizes_and_has_goldens_of_several(bundle, cli):
    manifest = load_bundle(bundle).manifest
    assert [(size.name, size.minimum, size.maximum) for size in manifest.inputs[0].dynamic] == [
        ("height", 8, 24),
        ("width", 8, 40),
    ]
    samples, _ = read_goldens(load_bundle(bundle))
    assert len({sample.inputs[0].shape for sample in samples}) > 1
    inspected = cli("inspect", bundle)
    assert "height: 8 to 24 (image:2)" in inspected.out
    document = json.loads(cli("inspect", bundle, "--json").out)
    assert document["dynamic_sizes"][0] == {
        "name": "height",
        "minimum": 8,
        "maximum": 24,
        "step": 1,
        "axes": ["image:2"],
    }
    narrower = replace(manifest.inputs[0], dynamic=manifest.inputs[0].dynamic[:1])
    assert interface_of(replace(manifest, inputs=(narrower,))) != manifest.interface


def test_validate_compares_layers_of_the_smallest_and_the_largest_size(bundle, cli):
    finished = cli("validate", bundle, "--json")
    assert finished.status == 0, finished.err
    assert finished.err.count("lower the layers of pte") == 2
    rows = json.loads(finished.out)["quality"]
    assert [row["identical"] for row in rows if row["name"] in ("pte", "ptl")] == [1.0, 1.0]


def test_a_bundle_in_steps_tells_them_and_is_valid(bundle_in_steps, cli):
    (image,) = load_bundle(bundle_in_steps).manifest.inputs
    assert [(size.name, size.step) for size in image.dynamic] == [("height", 4), ("width", 8)]
    assert "height: 8 to 24 in steps of 4 (image:2, output:2)" in cli("inspect", bundle_in_steps).out
    finished = cli("validate", bundle_in_steps)
    assert finished.status == 0, finished.err


def test_data_of_one_size_is_a_finding(cli, tmp_path):
    data = ("--evaluation", f"{SPEC}:pictures_of_one_size", "--precision", "fp32", "--format", "ptl")
    given = ("--target", "linux-x86-64", *data, "--output", tmp_path)
    finished = cli("build", f"{SPEC}:convolutions", *given, *PICTURES)
    assert finished.status == 0 and "every sample has the same 'height'" in finished.err
    report = json.loads((tmp_path / "linux-x86-64" / "report.json").read_text())
    assert [row["code"] for row in report["findings"]] == ["single-size", "single-size"]


def test_goldens_have_two_sizes_where_the_first_chosen_have_one(cli, tmp_path):
    """Every second picture is small, so that those evenly spaced all are."""
    text = f"""
import sys
sys.path.insert(0, {str(dynamic_networks.__file__.rpartition("/")[0])!r})
from dynamic_networks import picture
def pictures():
    for seed in range(16):
        yield picture(8, 8 + seed % 2, seed)
"""
    (tmp_path / "mixed.py").write_text(text)
    data = ("--evaluation", f"{tmp_path / 'mixed.py'}:pictures", "--precision", "fp32", "--format", "ptl")
    given = ("--target", "linux-x86-64", *data, "--output", tmp_path)
    assert cli("build", f"{SPEC}:convolutions", *given, *PICTURES).status == 0
    samples, _ = read_goldens(load_bundle(tmp_path / "linux-x86-64"))
    assert [sample.inputs[0].shape[3] for sample in samples] == [8] * 7 + [9]


@pytest.mark.parametrize(
    ("network", "data", "found"),
    [
        ("convolutions", "pictures_too_large", "float32 [1, 3, 8, 41]"),
        ("encoder", "texts_that_do_not_fit_their_masks", "5, 6"),
        ("unet", "pictures", "float32 [1, 3, 11, 15]"),
    ],
)
def test_samples_outside_the_bounds_are_refused(network, data, found):
    sizes = {key: size for key, size in SIZES[network].items() if not key.endswith(":0")}
    with pytest.raises(DataMismatchError) as caught:
        load_dataset(f"{SPEC}:{data}", input_specs(captured(network, sizes).exported))
    assert caught.value.lines["found"] == found
    bounds = {"encoder": "(1 to 32)", "convolutions": "(8 to 40)", "unet": "(8 to 32 in steps of 8)"}
    assert bounds[network] in caught.value.lines["expected"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tokens": "length:1..8"}, "is not understood"),
        ({"tokens:1": "length 1..8"}, "is not understood"),
        ({"tokens:1": "length:8..8"}, "goes from 8 to 8"),
        ({"tokens:1": "length:0..8"}, "goes from 0 to 8"),
        ({"tokens:1": "length"}, "has no bounds"),
        ({"tokens:1": "length:1..8", "mask:1": "length:1..9"}, "two pairs of bounds"),
        ({"token:1": "length:1..8"}, "no input 'token'"),
        ({"tokens:2": "length:1..8"}, "no axis 2"),
        ({"tokens:1": "length:1..4"}, "outside the bounds"),
        ({"tokens:1": "length:4..8:4"}, "outside the bounds"),
        ({"tokens:1": "length:2..8:"}, "is not understood"),
        ({"tokens:1": "length:2..8:0"}, "are no multiples of its step"),
        ({"tokens:1": "length:2..8:3"}, "are no multiples of its step"),
        ({"tokens:1": "length:2..8:2", "mask:1": "length:2..8"}, "two pairs of bounds"),
    ],
)
def test_sizes_that_make_no_sense(sizes, message):
    with pytest.raises(InvalidDynamicSizeError, match=message):
        captured("encoder", sizes)


def test_a_size_that_the_model_fixes():
    with pytest.raises(CaptureFailedError) as caught:
        captured("reshaped", {"x:1": "rows:2..8"})
    assert caught.value.lines["found"] == "rows is always 4"
    with pytest.raises(CaptureFailedError) as caught:
        captured("halved", {"x:2": "height:4..64"})
    assert caught.value.lines["found"].startswith("height must satisfy (2*(height")
    assert caught.value.lines["hint"].endswith(": --dynamic x:2=height:4..64:2")


def test_a_model_that_takes_fewer_sizes_than_wanted():
    with pytest.raises(CaptureFailedError) as caught:
        captured("unet", {"image:2": "height:5..63", "image:3": "width:8..32:2"})
    assert "height must satisfy" in caught.value.lines["found"]
    assert "--dynamic image:2=height:8..60:4" in caught.value.lines["hint"]
    with pytest.raises(CaptureFailedError) as caught:  # which torch.export itself does not tell
        captured("unet", {"image:2": "height:6..62:2"})
    assert caught.value.lines["found"].startswith("height must satisfy (height // 4) != 1\n")
    assert caught.value.lines["hint"].endswith(": --dynamic image:2=height:8..60:4")
    with pytest.raises(CaptureFailedError) as caught:  # a height of 1 inside is captured as a constant
        captured("unet", {"image:2": "height:4..64:4"})
    assert caught.value.lines["found"] == "height must satisfy (height // 4) != 1"
    assert caught.value.lines["hint"].endswith(": --dynamic image:2=height:8..64:4")


def test_the_batch_is_said_once(cli, tmp_path):
    finished = cli(
        *("build", f"{SPEC}:encoder", "--target", "linux-x86-64", "--precision", "fp32"),
        *(*LENGTHS, "--dynamic", "tokens:0=batch:1..4", "--dynamic-batch", "--output", tmp_path),
    )
    assert finished.status == 2 and "error[invalid-dynamic-size]" in finished.err
    twice = ("--dynamic", "tokens:1=length:1..8") * 2
    finished = cli("build", f"{SPEC}:encoder", "--target", "linux-x86-64", "--precision", "fp32", *twice)
    assert finished.status == 2 and "says tokens:1 twice" in finished.err


def test_a_saved_program_keeps_its_own_sizes(tmp_path):
    module, (image,) = dynamic_networks.convolutions()
    shapes = ({2: torch.export.Dim("rows", min=8, max=64)},)
    path = tmp_path / "saved.pt2"
    torch.export.save(torch.export.export(module.eval(), (image,), dynamic_shapes=shapes), path)
    program = capture(load_model(str(path)), dynamic_batch=False)
    (entry,) = inputs_of(program.exported)
    assert entry.dynamic == (DynamicSize(axis=2, name="image_dim_2", minimum=8, maximum=64),)
    in_steps = ({2: 4 * torch.export.Dim("rows", min=2, max=16)},)
    torch.export.save(torch.export.export(module.eval(), (image,), dynamic_shapes=in_steps), path)
    (entry,) = inputs_of(capture(load_model(str(path)), dynamic_batch=False).exported)
    assert entry.dynamic == (DynamicSize(axis=2, name="image_dim_2", minimum=8, maximum=64, step=4),)
    with pytest.raises(CaptureFailedError, match="the dynamic sizes of its own capture"):
        capture(
            load_model(str(path)),
            dynamic_batch=False,
            dynamic=parse_dynamic({"image:2": "height:8..64"}, "test"),
        )


@pytest.mark.parametrize(
    ("kind", "taken", "refused", "bounds"),
    [
        ("bundle", (24, 9, 12, 5), (25, 9), "8 to 24, 8 to 40"),
        ("bundle_in_steps", (12, 16, 12, 16), (10, 16), "8 to 24 in steps of 4, 8 to 32 in steps of 8"),
    ],
)
def test_the_python_wrapper_takes_sizes_within_the_bounds(
    request, cli, tmp_path, kind, taken, refused, bounds
):
    """It runs the goldens, of several sizes, without edgecompile, and refuses other sizes."""
    folder = request.getfixturevalue(kind)
    finished = cli("embed", folder, "--platform", "python", "--format", "onnx", "-o", tmp_path / "app")
    assert finished.status == 0, finished.err

    def python(*arguments):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "app")}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )

    done = python("-m", "dynamic_networks")
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import numpy, sys; from dynamic_networks import DynamicNetworks; "
        "height, width = map(int, sys.argv[1:]); "
        "outputs = DynamicNetworks().run(numpy.zeros((1, 3, height, width), numpy.float32)); "
        "print(*next(iter(vars(outputs).values())).shape[2:])"
    )
    height, width, *shape = map(str, taken)
    assert python("-c", code, height, width).stdout.split() == shape
    refusal = python("-c", code, *map(str, refused))
    assert refusal.returncode == 1 and f"expected float32 [1, 3, {bounds}]" in refusal.stderr


def test_bundles_from_before_sizes_had_names_are_read(bundle, tmp_path):
    """A size that is not told is that of the batch; the manifest may leave `dynamic` out."""
    exported = capture(load_model(f"{SPEC}:convolutions"), dynamic_batch=True).exported
    rows = json.loads(to_text(exported))
    for row in rows:
        if "input" in row:
            row["type"]["shape"] = [size if isinstance(size, int) else None for size in row["type"]["shape"]]
        row.pop("names", None)
    again = read_program(json.dumps(rows).encode(), constants_to_npz(exported), tmp_path / "program.json")
    assert inputs_of(again) == inputs_of(exported)
    assert [entry.name for entry in outputs_of(again)] == ["output_0", "output_1"]
    loaded = load_bundle(bundle).manifest
    entries = tuple(replace(entry, dynamic=()) for entry in loaded.inputs)
    write_manifest(tmp_path, replace(loaded, inputs=entries))
    assert load_bundle(tmp_path).manifest.inputs[0].dynamic == ()


def test_a_manifest_whose_sizes_are_of_other_axes_is_refused(bundle, tmp_path):
    manifest = load_bundle(bundle).manifest
    sizes = (replace(manifest.inputs[0].dynamic[0], axis=9),)
    wrong = replace(manifest, inputs=(replace(manifest.inputs[0], dynamic=sizes),))
    write_manifest(tmp_path, wrong)
    with pytest.raises(InvalidManifestError, match="dynamic sizes of 'image'"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "size",
    [
        {"name": "a b", "minimum": 1, "maximum": 8},
        {"name": "a"},
        "1",
        {"name": 1, "minimum": 1},
        2.5,
        {"name": "a", "minimum": 8, "maximum": 16, "step": 0},
        {"name": "a", "minimum": 8, "maximum": 16, "step": 10**9},
    ],
)
def test_a_program_whose_sizes_make_no_sense_is_refused(tmp_path, size):
    exported = captured("convolutions", SIZES["convolutions"]).exported
    rows = json.loads(to_text(exported))
    next(row for row in rows if "input" in row)["type"]["shape"][2] = size
    with pytest.raises(InvalidManifestError, match="is not a program"):
        read_program(json.dumps(rows).encode(), constants_to_npz(exported), tmp_path / "program.json")
