"""Dictionaries, tuples and classes of tensors as inputs and outputs: their names, order and data."""

import json

import numpy as np
import onnx
import pytest
import structured_networks
import torch
from structured_networks import Detections, ModelOutput, Pair, Returns, Unknown

from edgecompile.artifact import load_bundle
from edgecompile.capture import capture, load_model
from edgecompile.dataset import load_dataset
from edgecompile.dynamic_size import parse_dynamic
from edgecompile.errors import DataMismatchError, ModelInputsMismatchError
from edgecompile.goldens import read_goldens
from edgecompile.program import SourceModel
from edgecompile.signature import input_specs, inputs_of, outputs_of

SPEC = structured_networks.__file__
INPUTS = ["tokens", "features_pixels", "features_parts_0", "features_parts_1", "mask"]
OUTPUTS = ["logits", "hidden_states_0", "hidden_states_1"]


def captured(spec, **options):
    return capture(load_model(f"{SPEC}:{spec}"), dynamic_batch=False, **options).exported


@pytest.mark.parametrize("spec", ["by_name", "in_order"])
def test_names_and_their_order(spec):
    exported = captured(spec)
    assert [entry.name for entry in inputs_of(exported)] == INPUTS
    assert [entry.name for entry in outputs_of(exported)] == OUTPUTS
    assert [entry.shape for entry in inputs_of(exported)] == [(1, 5), (1, 6), (1, 8), (1, 8), (1, 5)]


def collections_of(x):
    values = structured_networks.collections.defaultdict(list)
    values["first"], values["second"] = x + 1, x * 2
    return values


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: {"b": x + 1, "a": x * 2}, ["b", "a"]),
        (lambda x: {"only": x + 1}, ["only"]),
        (lambda x: [x + 1], ["output"]),
        (lambda x: (x + 1, (x * 2, x - 1)), ["output_0", "output_1_0", "output_1_1"]),
        (lambda x: (x + 1, {"aux": x * 2}), ["output_0", "output_1_aux"]),
        (lambda x: Pair(x + 1, x * 2), ["left", "right"]),
        (lambda x: ModelOutput(loss=x + 1, logits=x * 2), ["loss", "logits"]),
        (lambda x: Unknown(logits=x * 2, more=(x,)), ["logits", "more_0"]),
        (lambda x: Detections(x + 1, None, (x, x * 2)), ["boxes", "levels_0", "levels_1"]),
        (lambda x: {"x": x + 1, "x_output": x * 2}, ["x_output", "x_output_output"]),
        (lambda x: {"class score": x + 1, "1": x * 2, "a_b": x, "a": {"b": x}}, None),
        (collections_of, ["first", "second"]),
    ],
)
def test_outputs_are_named_by_what_leads_to_them(function, names):
    source = SourceModel(
        name="net", module=Returns(function), exported=None, example_inputs=(torch.rand(1, 3),)
    )
    exported = capture(source, dynamic_batch=False).exported
    found = [entry.name for entry in outputs_of(exported)]
    assert found == (names or ["class_score", "output_1", "a_b", "a_b_output"])
    x = torch.rand(1, 3)
    leaves = torch.utils._pytree.tree_leaves(exported.module(check_guards=False)(x))
    expected = [value for value in torch.utils._pytree.tree_leaves(function(x)) if value is not None]
    assert all(map(torch.equal, leaves, expected)) and len(leaves) == len(expected)


@pytest.fixture(scope="module")
def bundle(cli, tmp_path_factory):
    output = tmp_path_factory.mktemp("structures")
    finished = cli(
        *("build", f"{SPEC}:by_name", "--target", "linux-x86-64", "--output", output),
        *("--calibration", f"{SPEC}:named_samples"),
    )
    assert finished.status == 0, finished.err
    return output / "linux-x86-64"


def test_a_bundle_has_the_names_everywhere(bundle, cli):
    loaded = load_bundle(bundle)
    assert [entry.name for entry in loaded.manifest.inputs] == INPUTS
    assert [entry.name for entry in loaded.manifest.outputs] == OUTPUTS
    artifact = next(item for item in loaded.artifacts if item.format == "onnx")
    graph = onnx.load(bundle / artifact.path).graph
    assert [value.name for value in graph.input] == INPUTS
    assert [value.name for value in graph.output] == OUTPUTS
    assert (bundle / "goldens" / "000-reference-hidden_states_1.npy").is_file()
    finished = cli("validate", bundle, "--no-layers", "--json")
    assert finished.status == 0, finished.err
    rows = {row["name"]: row for row in json.loads(finished.out)["quality"]}
    assert all(rows[name]["missed"] == [] for name in ("pte", "ptl", "onnx"))


def test_goldens_are_what_the_model_gives_for_its_own_structure(bundle):
    samples, outputs = read_goldens(load_bundle(bundle))
    module = load_model(f"{SPEC}:by_name").module.eval()
    for sample, expected in zip(samples, outputs, strict=True):
        tokens, pixels, first, second, mask = sample.inputs
        found = module(tokens, {"pixels": pixels, "parts": [first, second]}, mask=mask)
        values = (found["logits"], *found["hidden_states"])
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(values, expected, strict=True))


def test_data_in_every_structure_and_as_npz(tmp_path):
    specs = input_specs(captured("in_order"))
    named = load_dataset(f"{SPEC}:named_samples", specs)
    assert [sample.label for sample in named.samples] == [2] * 17
    ordered, flat = (load_dataset(f"{SPEC}:{name}", specs) for name in ("ordered_samples", "flat_samples"))
    columns = zip(*(sample.inputs for sample in flat.samples), strict=True)
    arrays = {name: np.concatenate(column) for name, column in zip(INPUTS, columns, strict=True)}
    np.savez(tmp_path / "data.npz", **arrays)
    archive = load_dataset(str(tmp_path / "data.npz"), specs)
    for rows in zip(named.samples, ordered.samples, flat.samples, archive.samples, strict=True):
        assert all(all(map(torch.equal, row.inputs, rows[0].inputs)) for row in rows)


@pytest.mark.parametrize(
    ("sample", "hint"),
    [
        ('{"tokens": 1, "features": {"pixels": 1, "parts": [1.0, 2]}, "masc": 1}', "rename 'masc' to 'mask'"),
        ('{"tokens": 1}', None),
    ],
)
def test_keys_that_are_no_inputs(tmp_path, sample, hint):
    (tmp_path / "data.py").write_text(f"def make():\n    yield {sample}\n")
    with pytest.raises(DataMismatchError) as caught:
        load_dataset(f"{tmp_path / 'data.py'}:make", input_specs(captured("in_order")))
    assert caught.value.lines.get("hint") == hint or "masc" in caught.value.lines["found"]


def test_dynamic_sizes_of_inputs_in_structures():
    sizes = {"features_parts_0:1": "width:2..16", "tokens:1": "length:1..9", "mask:1": "length"}
    exported = captured("by_name", dynamic=parse_dynamic(sizes, "test"))
    found = {entry.name: [size.name for size in entry.dynamic] for entry in inputs_of(exported)}
    assert found["tokens"] == found["mask"] == ["length"] and found["features_parts_0"] == ["width"]


def test_inputs_by_names_that_the_model_does_not_have():
    source = load_model(f"{SPEC}:by_name")
    keywords = dict(source.example_keywords)
    keywords["masc"] = keywords.pop("mask")
    wrong = SourceModel(
        name="net", module=source.module, exported=None, example_inputs=(), example_keywords=keywords
    )
    with pytest.raises(ModelInputsMismatchError, match="masc"):
        capture(wrong, dynamic_batch=False)
