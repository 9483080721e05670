"""The platform react-native: parsed, checked against its engine's own types, its arithmetic run in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grammars import ODD_BUNDLES, problems
from synthetic_bundle import PICTURES, tensor, write_bundle
from test_every_platform import project, texts

from edgecompile.classes import top_classes
from edgecompile.picture import Preparation
from edgecompile.pipeline import ClassesOutput, PictureInput, Pipeline

MODULES = Path(sys.prefix) / "npm/node_modules"

needs_typescript = pytest.mark.skipif(
    shutil.which("node") is None
    or not (MODULES / "typescript").exists()
    or not (MODULES / "react-native-executorch").exists(),
    reason="no TypeScript compiler or no react-native-executorch: make test-slow, with npm",
)

GREY = Pipeline(
    picture=PictureInput(
        short_side=11, channels="grey", layout="nhwc", divide_by=127.5, mean=(1.0,), std=(0.7,)
    ),
    classes=ClassesOutput(softmax=False, top_k=3),
)
# float64, int8 and int16 are no types of this engine.
BUNDLES = {
    "words": {
        "name": "class",
        "inputs": (tensor("in", 1, 4), tensor("fun", 2, dtype="int64"), tensor("function", 3, dtype="uint8")),
        "outputs": (tensor("return", 1, 4), tensor("default", 2, dtype="bool")),
    },
    "ours": {**ODD_BUNDLES["ours"], "name": "model"},
    "odd": {
        "name": "3 größe/net",
        "inputs": (tensor("0", 1, 2),),
        "outputs": (tensor("猫", 1, 5, dtype="int32"),),
    },
    "pictures": {"name": "seen", "pipeline": PICTURES},
    "grey": {"name": "grey", "inputs": (tensor("x", 1, 8, 6, 1),), "pipeline": GREY},
}


def written(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def tsc(folder, *options):
    (folder / "node_modules").symlink_to(MODULES)
    command = ["node", MODULES / "typescript/bin/tsc", "-p", folder, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_every_source_parses(tmp_path, bundle):
    files = texts(project(write_bundle(tmp_path / "bundle", **bundle), "react-native"))
    sources = {path: text for path, text in files.items() if path.endswith((".ts", ".tsx"))}
    assert len(sources) == (7 if "pipeline" in bundle else 5)
    assert [line for path, text in sources.items() for line in problems(text, path.rpartition(".")[2])] == []


def test_the_grammar_finds_what_is_no_typescript():
    assert problems("const x: = 1;\n", "ts")


def test_the_package(tmp_path):
    files = project(write_bundle(tmp_path / "bundle", name="my net", pipeline=PICTURES), "react-native")
    package = json.loads(files["package.json"])
    assert package["name"] == "my-net"
    assert package["peerDependencies"]["react-native-executorch"] == "^0.10.0"
    assert (package["main"], "assets/my_net/my_net.pte" in files) == ("src/index.ts", True)
    assert json.loads(files["tsconfig.json"])["compilerOptions"]["strict"] is True


@needs_typescript
@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_it_type_checks_against_the_engines_own_types(tmp_path, bundle):
    folder = written(tmp_path / "app", project(write_bundle(tmp_path / "bundle", **bundle), "react-native"))
    done = tsc(folder)
    assert (done.returncode, done.stdout) == (0, "")


MAIN = """
const fs = require("fs");
const { prepare } = require("./out/picture.js");
const { classes } = require("./out/classes.js");
for (const name of fs.readdirSync(".").filter((name) => name.endsWith(".rgb"))) {
  const [height, width] = name.split(".")[0].split("x").map(Number);
  const data = new Uint8Array(fs.readFileSync(name));
  fs.writeFileSync(name + ".out", Buffer.from(prepare({ data, height, width, format: "rgb" }).buffer));
}
for (const line of fs.readFileSync("outputs.txt", "utf8").split("\\n")) {
  console.log(JSON.stringify(classes(new Float32Array(line.split(" ").map(Number)))));
}
"""
SIZES = [(1, 1), (8, 6), (9, 300), (77, 13), (240, 320)]
OUTPUTS = ["1.5 3.0 3.0 -2.0", "0.0 -0.0 NaN -1.0", "Infinity 1.0 Infinity 0.0", "-2.0 NaN 100.0 99.5"]


@needs_typescript
@pytest.mark.parametrize("pipeline", [PICTURES, GREY], ids=["colours", "grey"])
def test_its_arithmetic_is_pythons(tmp_path, pipeline):
    grey = pipeline is GREY
    labels = ("cat", "größe", '"; \\ ${x}', "*/ 猫")
    shape = (1, 8, 6, 1) if grey else (1, 3, 8, 6)
    bundle = write_bundle(
        tmp_path / "bundle", inputs=(tensor("x", *shape),), pipeline=pipeline, labels=labels
    )
    folder = written(tmp_path / "app", project(bundle, "react-native"))
    done = tsc(
        folder, "--noEmit", "false", "--outDir", folder / "out", "--module", "commonjs",
        "--moduleResolution", "node10",
    )  # fmt: skip
    assert (folder / "out/picture.js").exists(), done.stdout
    pictures = {size: np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8) for size in SIZES}
    for (height, width), pixels in pictures.items():
        (folder / f"{height}x{width}.rgb").write_bytes(pixels.tobytes())
    (folder / "outputs.txt").write_text("\n".join(OUTPUTS))
    ran = subprocess.run(["node", "-e", MAIN], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

    preparation = Preparation(
        height=8, width=6, short_side=11 if grey else None, channels="grey" if grey else "rgb",
        layout="nhwc" if grey else "nchw", divide_by=127.5 if grey else 255.0,
        mean=(1.0,) if grey else (0.5,) * 3, std=(0.7,) if grey else (1.0,) * 3,
    )  # fmt: skip
    for (height, width), pixels in pictures.items():
        found = np.frombuffer((folder / f"{height}x{width}.rgb.out").read_bytes(), "<f4")
        assert np.array_equal(found, preparation.apply(pixels).reshape(-1)), (height, width)
    for output, line in zip(OUTPUTS, ran.stdout.splitlines(), strict=True):
        values = np.array([float(value) for value in output.split()], np.float32)
        expected = top_classes(
            values, softmax=not grey, top_k=3 if grey else 2, labels=None if grey else labels
        )
        found = json.loads(line)
        assert [(item["index"], item["label"]) for item in found] == [(e.index, e.label) for e in expected]
        for item, other in zip(found, expected, strict=True):
            # JSON has no infinity.
            score = item["score"] if item["score"] is not None else np.inf
            assert score == pytest.approx(other.score, rel=0, abs=1e-12)
