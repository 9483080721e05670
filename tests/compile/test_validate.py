"""`edgecompile validate`: a good bundle passes; a wrong or damaged one ends in its own error."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecompile.artifact import load_bundle
from edgecompile.artifact_run import in_python
from edgecompile.connections.host import Host
from edgecompile.errors import EdgecompileError, InvalidManifestError
from edgecompile.program_file import constants_to_npz, read_program, to_text
from edgecompile.validate import validate

PROGRAM_FILES = ("program.json", "program.npz")


@pytest.fixture(scope="module")
def good(build):
    return build("small")


@pytest.fixture(scope="module")
def other_ptl(build):
    return (build("other", "--format", "ptl") / "networks.ptl").read_bytes()


@pytest.fixture
def bundle(good, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))


@pytest.fixture
def program(good):
    return [json.loads((good / PROGRAM_FILES[0]).read_text()), (good / PROGRAM_FILES[1]).read_bytes()]


def _change_manifest(bundle, change):
    """Change the manifest as somebody would who also keeps its own hash right."""
    document = json.loads((bundle / "manifest.json").read_text())
    del document["sha256"]
    change(document)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(document | {"sha256": digest}))


def _replace_file(bundle, name, data):
    """Replace a file, and its hashes in the manifest too."""
    (bundle / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()

    def change(document):
        document["files"][name] = digest
        for artifact in document["artifacts"]:
            if artifact["path"] == name:
                artifact.update(sha256=digest, size_bytes=len(data))

    _change_manifest(bundle, change)


def _refused(cli, bundle, code, status=2):
    finished = cli("validate", bundle, "--no-layers")
    assert finished.status == status, finished.err
    assert f"error[{code}]" in finished.err and "Traceback" not in finished.err
    return finished


def test_a_good_bundle_passes(cli, good):
    finished = cli("validate", good)
    assert finished.status == 0, finished.err
    for said in ("8 golden inputs", "layer by layer", "worst layer", "4 of 4", "passed"):
        assert said in finished.out


def test_json_without_layers_and_nothing_else_is_printed(good):
    command = [sys.executable, "-m", "edgecompile.cli.main", "validate", str(good), "--no-layers", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    stages = [line.partition(" … ")[0] for line in finished.stderr.splitlines()]
    assert stages == ["reference", "run pte", "run ptl", "run onnx"], finished.stderr
    document = json.loads(finished.stdout)
    assert (document["passed"], document["layers"]) == (True, {})
    assert document["artifacts"] == {item.format: item.sha256 for item in load_bundle(good).artifacts}
    assert [row["name"] for row in document["quality"]] == ["float", "reference", "pte", "ptl", "onnx"]
    assert all(row["identical"] == 1 for row in document["quality"][2:4])


@pytest.fixture
def other_arithmetic(monkeypatch):
    """Make native runs of .onnx, in this process, some steps larger in every layer but the first two."""

    def over_connection(artifact_format, engine, data, *, connection, precise):
        run = in_python(artifact_format, engine, data, precise=precise)

        def changed(samples):
            for outputs in run.run(samples):
                alone = len(outputs) == 1  # the model itself, not its layers
                yield tuple(
                    output + (_step(output) if artifact_format == "onnx" and (alone or index > 1) else 0)
                    for index, output in enumerate(outputs)
                )

        return replace(run, name=f"{artifact_format} on {connection.description}", native=True, run=changed)

    monkeypatch.setattr("edgecompile.validate.over_connection", over_connection)
    monkeypatch.setattr("edgecompile.validate.built_runner", lambda *_: None)


def _step(output):
    """Return the smallest difference of values: one quantization step or more."""
    return output.unique().diff().min()


def test_a_native_run_that_differs_names_the_layer_where_it_begins(good, other_arithmetic):
    with Host() as host:
        found = validate(good, connection=host)
    layers = found.layers["onnx on host"]
    assert [layer.identical for layer in layers[:2]] == [1, 1]
    assert all(layer.identical == 0 and layer.largest_step > 0 for layer in layers[2:])
    assert {"pte on host", "ptl on host"}.isdisjoint(found.layers)
    text = found.text()
    assert "pte on host: all outputs are those of pte on this host, bit for bit" in text
    assert "onnx on host: 0.000% of the output elements are those of onnx on this host" in text
    assert f"there {len(layers) - 2}, first {layers[2].name} ({layers[2].kind}, " in text
    assert f"at most {layers[2].largest_step} steps, on this host none" in text
    rows = {row["name"]: row for row in found.to_dict()["quality"]}
    assert rows["pte on host"]["as_here"]["identical"] == 1
    assert rows["onnx on host"]["as_here"]["first_sample"] == 0
    assert rows["onnx"]["as_here"] is None


def test_fp32_bundle_passes(cli, build):
    bundle = build("small", "--precision", "fp32", "--format", "ptl", "--format", "onnx", data=None)
    finished = cli("validate", bundle)
    assert finished.status == 0 and "layer by layer" not in finished.out


def test_another_models_artifact_is_found_out(cli, bundle, other_ptl):
    _replace_file(bundle, "networks.ptl", other_ptl)
    finished = _refused(cli, bundle, "validation-failed", status=4)
    assert "ptl: SQNR" in finished.out and finished.out.rstrip().endswith("FAILED")


@pytest.mark.parametrize("name", ["networks.pte", "networks.ptl", "networks.onnx"])
def test_an_engine_rejects_what_is_no_artifact(cli, bundle, name):
    _replace_file(bundle, name, bytes(200))
    _refused(cli, bundle, "engine-failed", status=6)


@pytest.mark.parametrize(
    "name",
    ["networks.pte", "networks.ptl", "networks.onnx", "goldens/003-input-picture.npy", *PROGRAM_FILES],
)
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damaged_files(cli, bundle, name, damage):
    data = bytearray((bundle / name).read_bytes())
    if damage == "missing":
        (bundle / name).unlink()
    else:
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data if damage == "altered" else data[: len(data) // 2])
    finished = _refused(cli, bundle, "altered-file")
    assert name in finished.err


def test_damaged_manifest(cli, bundle, tmp_path):
    file = bundle / "manifest.json"
    text = file.read_text()
    for damaged in (text[: len(text) // 2], "", "[]", "nul", text.replace('"int8"', '"fp32"'), "[" * 10**5):
        file.write_text(damaged)
        _refused(cli, bundle, "invalid-manifest")
    file.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    assert "schema version is 2" in _refused(cli, bundle, "invalid-manifest").err
    file.unlink()
    _refused(cli, bundle, "not-a-bundle")
    _refused(cli, tmp_path / "nothing", "not-a-bundle")


def _outside(document):
    document["files"]["../secret"] = "0" * 64


def _artifact_outside(document):
    document["artifacts"][0]["path"] = "../secret"


def _program_unlisted(document):
    del document["files"]["program.json"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_outside, "invalid-manifest"),
        (_artifact_outside, "invalid-manifest"),
        (_program_unlisted, "altered-file"),
        (lambda document: document["files"].update({"/etc/passwd": "0"}), "invalid-manifest"),
        (lambda document: document["files"].update({"a\0b": "0"}), "invalid-manifest"),
        (lambda document: document.update(target="android-arm46"), "unknown-target"),
        (lambda document: document.update(target="../_defaults"), "unknown-target"),
        (lambda document: document.update(goldens=0), "invalid-manifest"),
        (lambda document: document.update(goldens=9), "altered-file"),
        (lambda document: document.update(schema_version="1"), "invalid-manifest"),
        (lambda document: document.update(more=1), "invalid-manifest"),
        (lambda document: document["artifacts"][0].update(engine="cpython"), "invalid-manifest"),
        (lambda document: document["artifacts"][0].update(format="exe"), "invalid-manifest"),
        (lambda document: document["artifacts"][0].update(sha256="0"), "invalid-manifest"),
        (lambda document: document["inputs"][0].update(name="../x"), "invalid-manifest"),
        (lambda document: document["inputs"][0].update(shape=[1, 3, 8, 8]), "invalid-manifest"),
        (lambda document: document["outputs"].pop(), "invalid-manifest"),
    ],
)
def test_manifests_that_lie(cli, bundle, change, code):
    (bundle.parent / "secret").write_bytes(b"not yours")
    _change_manifest(bundle, change)
    _refused(cli, bundle, code)


def test_a_link_out_of_the_bundle_is_not_followed(cli, bundle):
    data = (bundle / "report.txt").read_bytes()
    (bundle.parent / "report.txt").write_bytes(data)
    (bundle / "report.txt").unlink()
    (bundle / "report.txt").symlink_to("../report.txt")
    _refused(cli, bundle, "altered-file")


def test_pickled_goldens_and_constants_are_refused(cli, bundle):
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    _replace_file(bundle, "goldens/000-input-picture.npy", buffer.getvalue())
    assert "is no array" in _refused(cli, bundle, "invalid-manifest").err
    buffer = io.BytesIO()
    np.savez(buffer, p_head_weight=np.array([print], dtype=object))
    _replace_file(bundle, "program.npz", buffer.getvalue())
    assert "program.json is not a program" in _refused(cli, bundle, "invalid-manifest").err


def test_a_golden_of_another_shape_is_refused(cli, bundle):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 3, 8, 8), np.float32))
    _replace_file(bundle, "goldens/000-input-picture.npy", buffer.getvalue())
    assert "does not fit 'picture'" in _refused(cli, bundle, "invalid-manifest").err


def test_the_program_is_what_was_written(good, program):
    exported = read_program(*[(good / name).read_bytes() for name in PROGRAM_FILES], Path("p"))
    again = json.loads(to_text(exported))
    for key in ("call", "where", "kwargs"):
        assert [row[key] for row in again if "call" in row] == [
            row[key] for row in program[0] if "call" in row
        ]
    constants = [np.load(io.BytesIO(data)) for data in (constants_to_npz(exported), program[1])]
    first, second = ([archive[name].tobytes() for name in archive.files] for archive in constants)
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize(
    "call",
    [
        "prims.add.default",
        "profiler._record_function_enter.default",
        "aten.add",
        "aten.__class__.__subclasses__",
        "aten.add.__class__",
        "aten.__init__.__globals__",
        "quantized_decomposed.__dict__.clear",
        "aten.from_file.default",
        "aten.add_.Tensor",
        "aten._print.default",
        "os.system",
        "eval",
    ],
)
def test_only_functions_of_tensors_are_called(program, call, tmp_path):
    rows, constants = program
    first = next(row for row in rows if "call" in row)
    first["call"], first["args"] = call, [str(tmp_path / "made"), True, 10]
    _refuses(rows, constants)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["x=print(1), y", "__import__", "a b", "class"])
def test_names_that_would_become_code_are_refused(program, key):
    rows, constants = program
    index = next(index for index, row in enumerate(rows) if "call" in row)
    for part in ("kwargs", "name", "input"):
        changed = json.loads(json.dumps(rows))
        if part == "kwargs":
            changed[index]["kwargs"] = {key: 1}
        elif part == "name":
            changed[index]["name"] = key
        else:
            changed.insert(0, {"input": key, "type": {"shape": [1], "dtype": "float32"}})
        _refuses(changed, constants)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        7,
        "text",
        {},
        [],
        [1],
        [[]],
        [{}],
        [{"output": []}],
        [{"output": [{"node": "x"}]}],
        [{"input": "x", "type": {"shape": [10**12], "dtype": "float32"}}, {"output": [{"node": "x"}]}],
        [{"input": "x", "type": {"shape": [-1], "dtype": "float32"}}, {"output": [{"node": "x"}]}],
        [{"input": "x", "type": {"shape": [1], "dtype": "object"}}, {"output": [{"node": "x"}]}],
        [{"input": "x", "type": {"shape": "ab", "dtype": "float32"}}],
        [{"constant": "absent"}],
        [{"call": "aten.relu.default", "args": [], "kwargs": {}, "name": "y", "where": ""}],
    ],
)
def test_nonsense_is_no_program(program, rows):
    _refuses(rows, program[1])


def _refuses(rows, constants):
    with pytest.raises(InvalidManifestError):
        read_program(json.dumps(rows).encode(), constants, Path("program.json"))


@pytest.mark.parametrize("seed", range(50))
def test_corruptions(bundle, program, seed):
    """Whatever happens to a byte of the manifest is noticed; a program is refused or still a program."""
    generator = random.Random(seed)
    file = bundle / "manifest.json"
    damaged = _corrupt(file.read_bytes(), generator)
    try:
        same = json.loads(damaged) == json.loads(file.read_bytes())
    except ValueError:
        same = False
    file.write_bytes(damaged)
    if not same:
        with pytest.raises(EdgecompileError):
            load_bundle(bundle)
    try:
        read_program(_corrupt((bundle / "program.json").read_bytes(), generator), program[1], Path("p"))
    except InvalidManifestError as error:
        assert error.message.startswith("p is not a program")


def _corrupt(data, generator):
    position = generator.randrange(len(data))
    length = generator.choice((1, 1, 2, 8, 100))
    junk = bytes(generator.choice(b'0123456789{}[]",:-eN_x \xff') for _ in range(generator.choice((0, 1, 3))))
    return data[:position] + junk + data[position + length :]
