"""The platform android: parsed, type-checked against declarations, its arithmetic compiled and run."""

from __future__ import annotations

import re
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

DECLARATIONS = Path(__file__).parent / "declarations"
KOTLINC = Path(sys.prefix) / "npm/node_modules/kotlin-compiler/bin/kotlinc"
LIBRARIES = KOTLINC.parents[1] / "lib"

needs_kotlin = pytest.mark.skipif(
    not KOTLINC.exists() or shutil.which("java") is None,
    reason="no Kotlin compiler: make test-slow, with npm and Java",
)

GREY = Pipeline(
    picture=PictureInput(
        short_side=11, channels="grey", layout="nhwc", divide_by=127.5, mean=(1.0,), std=(0.7,)
    ),
    classes=ClassesOutput(softmax=False, top_k=3),
)


def kotlinc(*arguments):
    """Compile; to one jar, or only to see whether it compiles."""
    command = ["bash", KOTLINC, "-no-reflect", "-nowarn", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def written(folder, files, *names):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return [path for path in folder.rglob("*.kt") if not names or path.name in names]


@pytest.mark.parametrize("format_name", ["pte", "onnx"])
@pytest.mark.parametrize(
    "bundle", [*ODD_BUNDLES.values(), {"pipeline": PICTURES}], ids=[*ODD_BUNDLES, "pictures"]
)
def test_every_source_parses(tmp_path, format_name, bundle):
    files = texts(project(write_bundle(tmp_path / "bundle", **bundle), "android", format_name))
    sources = {path: text for path, text in files.items() if path.endswith((".kt", ".kts"))}
    assert len(sources) == (7 if "pipeline" in bundle else 5)
    assert [line for path, text in sources.items() for line in problems(text, path.rpartition(".")[2])] == []


def test_the_grammar_finds_what_is_no_kotlin():
    assert problems("fun f(x: Int { return }\n", "kt")


@pytest.mark.parametrize(
    ("format_name", "library"),
    [
        ("pte", "org.pytorch:executorch-android:1.5.1"),
        ("onnx", "com.microsoft.onnxruntime:onnxruntime-android:1.32.0"),
    ],
)
def test_the_gradle_module(tmp_path, format_name, library):
    files = project(write_bundle(tmp_path / "bundle", pipeline=PICTURES), "android", format_name)
    gradle = files["build.gradle.kts"].decode()
    implementations = re.findall(r'^    implementation\("(.+)"\)$', gradle, re.MULTILINE)
    assert implementations == [library, "org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2"]
    assert 'namespace = "edgecompile.net"' in gradle
    assert f'noCompress += "{format_name}"' in gradle
    assert {path for path in files if "/assets/" in path and "golden" not in path} == {
        f"src/main/assets/net/net.{format_name}",
        "src/main/assets/net/labels.txt",
    }
    # Goldens do not ship with the app.
    assert len([path for path in files if path.startswith("src/androidTest/assets/net/goldens/")]) == 4
    for path, text in texts(files).items():
        if path.endswith(".kt"):
            folder = "src/androidTest" if "Test" in path else "src/main"
            assert path.startswith(f"{folder}/kotlin/edgecompile/net/"), path
            assert text.startswith("package edgecompile.net\n"), path


@needs_kotlin
@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["pte", "onnx"])
def test_it_type_checks_against_the_declarations_of_what_it_calls(tmp_path, format_name):
    """All of it but Gradle: declarations hold no code, so nothing of this runs."""
    sources = []
    for name, bundle in {**ODD_BUNDLES, "pictures": {"name": "seen", "pipeline": PICTURES}}.items():
        files = project(write_bundle(tmp_path / "bundles" / name, **bundle), "android", format_name)
        sources += written(tmp_path / "projects" / name, files)
    libraries = LIBRARIES / "kotlinx-coroutines-core-jvm.jar"
    done = kotlinc("-cp", libraries, "-d", tmp_path / "all.jar", *sources, *DECLARATIONS.glob("*.kt"))
    assert done.returncode == 0, done.stderr


MAIN = """
package edgecompile.net

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    for (path in folder.listFiles()!!.filter { it.extension == "rgb" }) {
        val (height, width) = path.nameWithoutExtension.split("x").map { it.toInt() }
        val bytes = path.readBytes()
        val pixels = IntArray(height * width) { i ->
            val (red, green, blue) = (0..2).map { bytes[3 * i + it].toInt() and 255 }
            (i shl 24) or (red shl 16) or (green shl 8) or blue
        }
        val numbers = PREPARATION.apply(pixels, height, width)
        val buffer = ByteBuffer.allocate(4 * numbers.size).order(ByteOrder.LITTLE_ENDIAN)
        buffer.asFloatBuffer().put(numbers)
        File(folder, path.nameWithoutExtension + ".out").writeBytes(buffer.array())
    }
    for (line in File(folder, "outputs.txt").readLines()) {
        val output = line.split(" ").map { it.toFloat() }.toFloatArray()
        for (softmax in listOf(true, false)) {
            val classes = topClasses(output, softmax, 3, null)
            println(classes.joinToString(" ") { "${it.index} ${it.label} ${it.score}" })
        }
    }
}
"""
SIZES = [(1, 1), (8, 6), (9, 300), (77, 13), (240, 320)]
OUTPUTS = [
    "1.5 3.0 3.0 -2.0",
    "0.0 -0.0 NaN -1.0",
    "Infinity 1.0 Infinity 0.0",
    "-Infinity NaN -Infinity -Infinity",
]


@needs_kotlin
@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [PICTURES, GREY], ids=["colours", "grey"])
def test_its_arithmetic_is_pythons(tmp_path, pipeline):
    grey = pipeline is GREY
    shape = (1, 8, 6, 1) if grey else (1, 3, 8, 6)
    bundle = write_bundle(tmp_path / "bundle", inputs=(tensor("x", *shape),), pipeline=pipeline)
    sources = written(tmp_path / "app", project(bundle, "android", "onnx"), "Picture.kt", "Classes.kt")
    (tmp_path / "Main.kt").write_text(MAIN)
    done = kotlinc("-include-runtime", "-d", tmp_path / "main.jar", *sources, tmp_path / "Main.kt")
    assert done.returncode == 0, done.stderr
    data = tmp_path / "data"
    data.mkdir()
    pictures = {size: np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8) for size in SIZES}
    for (height, width), pixels in pictures.items():
        (data / f"{height}x{width}.rgb").write_bytes(pixels.tobytes())
    (data / "outputs.txt").write_text("\n".join(OUTPUTS))
    command = ["java", "-cp", str(tmp_path / "main.jar"), "edgecompile.net.MainKt", str(data)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

    preparation = Preparation(
        height=8, width=6, short_side=11 if grey else None, channels="grey" if grey else "rgb",
        layout="nhwc" if grey else "nchw", divide_by=127.5 if grey else 255.0,
        mean=(1.0,) if grey else (0.5,) * 3, std=(0.7,) if grey else (1.0,) * 3,
    )  # fmt: skip
    for (height, width), pixels in pictures.items():
        found = np.frombuffer((data / f"{height}x{width}.out").read_bytes(), "<f4")
        assert np.array_equal(found, preparation.apply(pixels).reshape(-1)), (height, width)
    lines = iter(ran.stdout.splitlines())
    for output in OUTPUTS:
        values = np.array([float(value) for value in output.split()], np.float32)
        for softmax in (True, False):
            words = next(lines).split()
            expected = top_classes(values, softmax=softmax, top_k=3, labels=None)
            assert words[0::3] == words[1::3] == [str(item.index) for item in expected]
            scores = [float(word) for word in words[2::3]]
            assert scores == pytest.approx([item.score for item in expected], rel=0, abs=1e-12)
