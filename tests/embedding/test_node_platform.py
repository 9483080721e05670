"""The platform node: packages that npm really installs and Node.js runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from expected import classes_of, golden_outputs
from javascript_project import (
    MODELS,
    TYPE_NAMES,
    check_classes,
    floats,
    npm_install,
    require_node,
    run,
    type_errors,
)
from PIL import Image
from signed_bundles import check_outcomes, offers

from edgecompile import embedding
from edgecompile.classes import top_classes
from edgecompile.embedding.javascript import npm_version
from edgecompile.picture import Preparation

TEMPLATES = Path(embedding.__file__).parent / "templates/node"


@pytest.fixture(scope="session")
def installed(cli, small_bundle, tmp_path_factory):
    """The small model's package, with what npm installs for it."""
    require_node("npm")
    folder = tmp_path_factory.mktemp("node") / "app"
    finished = cli("embed", small_bundle, "--platform", "node", "-o", folder)
    assert finished.status == 0, finished.err
    npm_install(folder)
    return folder


@pytest.fixture(scope="session")
def project_of(cli, installed, onnx_bundle, tmp_path_factory):
    """Return a new package of a model; all have the same dependencies."""

    def project(name):
        folder = tmp_path_factory.mktemp(name) / "app"
        assert cli("embed", onnx_bundle(name), "--platform", "node", "-o", folder).status == 0
        (folder / "node_modules").symlink_to(installed / "node_modules")
        return folder

    return project


def node(folder, code, *arguments):
    """Run a module in a package, and return what it printed."""
    (folder / "test.mjs").write_text(code)
    done = run(folder, "node", "test.mjs", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_script_of_a_dependency_runs(installed):
    """The engine's own would look for CUDA and fetch what runs there."""
    assert run(installed, "npm", "config", "get", "ignore-scripts").stdout.strip() == "true"
    versions = json.loads((installed / "node_modules/onnxruntime-node/package.json").read_text())
    assert (
        versions["version"]
        == json.loads((installed / "package.json").read_text())["dependencies"]["onnxruntime-node"]
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_self_test_passes(project_of, name):
    done = run(project_of(name), "npm", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pictures: bit for bit" in done.stdout


GOLDENS = """
import { readFile } from "node:fs/promises";
import { INPUTS, OUTPUTS, TYPE } from "./index.js";
const model = await TYPE.load();
const outputs = [];
for (let index = 0; index < COUNT; index++) {
  const file = await readFile(`assets/goldens/${String(index).padStart(3, "0")}-input-0.bin`);
  const values = new Float32Array(new Uint8Array(file).buffer);
  outputs.push(Array.from((await model.run({ [INPUTS[0].name]: values }))[OUTPUTS[0].name]));
}
await model.close();
console.log(JSON.stringify(outputs));
"""


@pytest.mark.parametrize("name", MODELS)
def test_its_outputs_are_the_engines_bit_for_bit(project_of, onnx_bundle, name):
    expected = golden_outputs(onnx_bundle(name), "onnx")[:, 0]
    code = GOLDENS.replace("COUNT", str(len(expected))).replace("TYPE", TYPE_NAMES[name])
    assert np.array_equal(floats(node(project_of(name), code)), expected)


PICTURES = """
import { readFile } from "node:fs/promises";
import { TYPE } from "./index.js";
const model = await TYPE.load({ threads: 2 });
for (const { width, height, file } of JSON.parse(process.argv[2])) {
  console.log(JSON.stringify(await model.classify({ width, height, data: await readFile(file) })));
}
"""


@pytest.mark.parametrize("name", MODELS)
def test_pictures_become_the_references_classes(project_of, onnx_bundle, pictures_of, tmp_path, name):
    rows = []
    for number, path in enumerate(pictures_of(name)):
        picture = Image.open(path).convert("RGBA" if number % 2 else "RGB")
        (tmp_path / str(number)).write_bytes(picture.tobytes())
        rows.append({"width": picture.width, "height": picture.height, "file": str(tmp_path / str(number))})
    out = node(project_of(name), PICTURES.replace("TYPE", TYPE_NAMES[name]), json.dumps(rows))
    check_classes(
        [json.loads(line) for line in out.splitlines()],
        classes_of(onnx_bundle(name), "onnx", pictures_of(name)),
    )


REFUSED = """
import { Small } from "./index.js";
try {
  CODE
} catch (error) {
  console.log(`${error.name}: ${error.message}`);
}
"""


def test_an_altered_artifact_is_refused(installed, tmp_path):
    data = bytearray((installed / "assets/small.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "altered.onnx").write_bytes(data)
    path = json.dumps(str(tmp_path / "altered.onnx"))
    out = node(installed, REFUSED.replace("CODE", f"await Small.load({{ artifact: {path} }});"))
    assert out.startswith("AlteredArtifactError: ")
    assert "expected SHA-256" in out


OFFERED = """
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { Small } from "./index.js";
const bytes = new Uint8Array(await readFile("assets/goldens/000-input-0.bin"));
for (const [place, path] of process.argv.slice(2).entries()) {
  try {
    const model = await Small.load({ artifact: place % 2 ? pathToFileURL(path) : path });
    const outputs = await model.run({ picture: new Float32Array(bytes.buffer) });
    console.log(JSON.stringify(["taken", Array.from(Object.values(outputs)[0])]));
  } catch (error) {
    console.log(JSON.stringify([error.code ?? error.name, error.message]));
  }
}
"""
OUTCOMES = {
    "taken": "taken",
    "InvalidSignatureError": "bad signature",
    "AlteredArtifactError": "bad artifact",
    "ENOENT": "unreadable",
}


def test_only_what_is_signed_is_loaded(cli, installed, signed_bundle, tmp_path):
    app = tmp_path / "app"
    key = signed_bundle.public_key
    finished = cli("embed", signed_bundle.path, "--platform", "node", "-o", app, "--public-key", key)
    assert finished.status == 0, finished.err
    (app / "node_modules").symlink_to(installed / "node_modules")
    assert run(app, "npm", "test").returncode == 0
    offered = offers(signed_bundle, "onnx", tmp_path)
    out = node(app, OFFERED, *[item.artifact for item in offered])
    found = [json.loads(line) for line in out.splitlines()]
    check_outcomes(offered, [kind for kind, _ in found], OUTCOMES)
    expected = golden_outputs(signed_bundle.path, "onnx")[0, 0]
    for item, (kind, output) in zip(offered, found, strict=True):
        assert kind != "taken" or np.array_equal(np.float32(output), item.factor * expected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "run({ picture: new Float32Array(7) })",
            "picture: expected Float32Array of 5760 for [1, 3, 40, 48]",
        ),
        ("run({ picture: new Float64Array(5760) })", "found Float64Array of 5760"),
        ("run({})", "found undefined"),
        ("run()", "found undefined"),
        ("classify({ width: 2, height: 2, data: new Uint8Array(11) })", "3 or 4 bytes a pixel"),
        ("classify({ width: 0, height: 2, data: new Uint8Array(0) })", "3 or 4 bytes a pixel"),
        ("classify({ width: 2, height: 2, data: new Float32Array(12) })", "Float32Array of 12"),
    ],
)
def test_a_wrong_input_is_refused(installed, code, message):
    out = node(installed, REFUSED.replace("CODE", f"await (await Small.load()).{code};"))
    assert out.startswith("TypeError: ")
    assert message in out


def test_a_damaged_golden_fails_the_self_test(project_of):
    project = project_of("small")
    golden = project / "assets/goldens/000-float-0.bin"
    golden.write_bytes((-np.fromfile(golden, np.float32)).tobytes())
    done = run(project, "npm", "test")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


USE = """
import { AlteredArtifactError, INPUTS, Small, selfTest, type Class, type Picture } from "./index.js";
const model: Small = await Small.load({ artifact: new URL("file:///x"), threads: 2 });
const picture: Picture = { width: 1, height: 1, data: new Uint8ClampedArray(4) };
const height: 40 = INPUTS[0].shape[2];
const values: Float32Array = (await model.run({ picture: Small.prepare(picture) })).head;
const classes: Class[] = await model.classify(picture);
const passed: boolean = (await selfTest(model)).passed;
await model.close();
export default [height, values, classes[0]?.label, passed, AlteredArtifactError];
"""


def test_its_types_are_sound(project_of, tmp_path, small_bundle):
    project = project_of("small")
    npm_install(tmp_path, "typescript@5.9.3")
    output = json.loads((small_bundle / "manifest.json").read_text())["outputs"][0]["name"]
    use = USE.replace(".head", f".{output}")
    assert type_errors(project, tmp_path, use) == ""
    wrong = use.replace("{ picture: Small", "{ pictures: Small").replace("height: 40", "height: 41")
    said = type_errors(project, tmp_path, wrong)
    assert "'pictures' does not exist in type 'Inputs'" in said
    assert "not assignable to type '41'" in said


@pytest.fixture(scope="session")
def arithmetic(tmp_path_factory):
    """The files without a model, which need no engine."""
    require_node()
    folder = tmp_path_factory.mktemp("arithmetic")
    for name in ("picture", "classes"):
        text = (TEMPLATES / f"{name}.js.j2").read_text()
        assert "{%" not in text
        (folder / f"{name}.mjs").write_text(text)
    return folder


@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("short_side", [None, 23])
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (311, 23), (640, 481)])
def test_a_picture_becomes_the_same_bits(arithmetic, tmp_path, channels, layout, short_side, size):
    count = 1 if channels == "grey" else 3
    mean, std = (0.485, 0.456, 0.406)[:count], (0.229, 0.224, 0.225)[:count]
    preparation = Preparation(
        height=19, width=23, short_side=short_side, channels=channels, layout=layout, divide_by=255.0,
        mean=mean, std=std,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    told = {
        "height": 19, "width": 23, "shortSide": short_side, "channels": channels, "layout": layout,
        "divideBy": 255.0, "mean": mean, "std": std,
    }  # fmt: skip
    code = (
        'import { readFile, writeFile } from "node:fs/promises"; import { prepared } from "./picture.mjs"; '
        f"const picture = {{ height: {size[0]}, width: {size[1]}, data: await readFile(process.argv[2]) }}; "
        f"await writeFile(process.argv[3], prepared(picture, {json.dumps(told)}));"
    )
    node(arithmetic, code, tmp_path / "pixels", tmp_path / "numbers")
    found = np.fromfile(tmp_path / "numbers", "<f4")
    assert np.array_equal(found, preparation.apply(pixels).reshape(-1))


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [1.0, 3.0, 3.0, -2.0],
        [float("nan"), 1.0, float("nan"), 0.5],
        [float("inf"), 1.0, float("inf"), 0.0],
        [float("-inf")] * 4,
        [800.0, -800.0, 799.0, 0.0],
    ],
)
def test_classes_are_ordered_as_the_references(arithmetic, values, softmax):
    numbers = str(values).replace("nan", "NaN").replace("inf", "Infinity")
    code = (
        'import { topClasses } from "./classes.mjs"; '
        f"const options = {{ softmax: {json.dumps(softmax)}, topK: 3, labels: null }}; "
        f"const found = topClasses(new Float32Array({numbers}), options); "
        "console.log(JSON.stringify(found.map(({ index, label, score }) => [index, label, String(score)])));"
    )
    found = json.loads(node(arithmetic, code))
    expected = top_classes(np.array(values, np.float32), softmax=softmax, top_k=3, labels=None)
    assert [row[:2] for row in found] == [[each.index, each.label] for each in expected]
    scores = [float(row[2].replace("Infinity", "inf")) for row in found]
    assert scores == pytest.approx([each.score for each in expected], abs=1e-12)


@pytest.mark.parametrize(
    ("engine_version", "found"),
    [
        ("1.32.0", "1.30.0"),
        ("1.30.1", "1.30.0"),
        ("1.28.0", "1.27.0"),
        ("1.24.1", "1.24.3"),
        ("1.9.0", "1.24.3"),
    ],
)
def test_the_nearest_version_that_npm_has(engine_version, found):
    assert npm_version(engine_version) == found
