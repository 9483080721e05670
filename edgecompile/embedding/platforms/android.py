"""A Gradle library module in Kotlin on ExecuTorch or ONNX Runtime, with an instrumented self-test."""

from __future__ import annotations

from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject
from edgecompile.pipeline import LABELS, labels_data

_ENGINES = {"pte": "executorch", "onnx": "onnxruntime"}

_TYPES = {
    "float32": "FloatArray",
    "float64": "DoubleArray",
    "int8": "ByteArray",
    "uint8": "ByteArray",
    "int32": "IntArray",
    "int64": "LongArray",
}
# How ExecuTorch's Tensor gives its elements.
_ARRAYS = {
    "float32": "dataAsFloatArray",
    "float64": "dataAsDoubleArray",
    "int8": "dataAsByteArray",
    "uint8": "dataAsUnsignedByteArray",
    "int32": "dataAsIntArray",
    "int64": "dataAsLongArray",
}
# An element as a Double.
_NUMBERS = dict.fromkeys(_ARRAYS, "it.toDouble()") | {"uint8": "(it.toInt() and 255).toDouble()"}

_KOTLIN = """
as break class continue do else false for fun if in interface is null object package return super
this throw true try typealias typeof val var when while
"""
# The package is one of Java, too: Android's tools generate Java in it.
_JAVA = """
abstract assert boolean byte case catch char const default double enum extends final finally float
goto implements import instanceof int long native new private protected public short static strictfp
switch synchronized throws transient void volatile r build_config
"""
# What the templates call their own, or name, where inputs are parameters.
_OWN = """
engine turn module environment options session names tensors results use checked withContext
Dispatchers EValue FloatArray FloatBuffer DoubleBuffer IntBuffer LongBuffer ByteBuffer Module
OnnxJavaType OnnxTensor Outputs Tensor ArrayList index it require requireSize longArrayOf
"""
# What a class of the model's name would hide.
_CLASSES = """
array array_list artifact bitmap byte_array byte_buffer channels class classes closeable context
dispatchers double double_array double_buffer e_value engine file float float_array float_buffer int
int_array int_buffer io_exception layout list long long_array long_buffer math module mutex
onnx_java_type onnx_tensor ort_environment ort_session outputs preparation self_test string tensor
throwable unit altered_artifact_exception message_digest any boolean
"""


class Android(Platform):
    """The platform `android`."""

    formats = ("pte", "onnx")
    # What both engines' Java libraries have arrays for.
    types = _TYPES
    reserved = frozenset({*_KOTLIN.split(), *_OWN.split()})
    reserved_names = frozenset({*_JAVA.split(), *_CLASSES.split()})

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a module for an app's Gradle build."""
        engine = _ENGINES[subject.artifact.format]
        folder = f"kotlin/edgecompile/{subject.name}"
        templates = {
            "README.md": "README.md.j2",
            "build.gradle.kts": "build.gradle.kts.j2",
            "src/main/AndroidManifest.xml": "AndroidManifest.xml.j2",
            f"src/main/{folder}/Artifact.kt": "Artifact.kt.j2",
            f"src/main/{folder}/Engine.kt": f"{engine}.kt.j2",
            f"src/main/{folder}/Model.kt": "Model.kt.j2",
            f"src/androidTest/{folder}/SelfTest.kt": "SelfTest.kt.j2",
        }
        if subject.picture:
            templates[f"src/main/{folder}/Picture.kt"] = "Picture.kt.j2"
        if subject.classes:
            templates[f"src/main/{folder}/Classes.kt"] = "Classes.kt.j2"
        more = {
            "engine": engine,
            "arrays": _ARRAYS,
            "readers": {dtype: f"{kind[0].lower()}{kind[1:-5]}s" for dtype, kind in _TYPES.items()},
            "numbers": _NUMBERS,
            "used_types": sorted({tensor.type for tensor in (*subject.inputs, *subject.outputs)}),
        }
        files = {path: rendered(f"android/{name}", subject, **more) for path, name in templates.items()}
        assets = f"src/main/assets/{subject.name}"
        files[f"{assets}/{subject.artifact_name}"] = subject.data
        if subject.labels:
            files[f"{assets}/{LABELS}"] = labels_data(subject.labels)
        goldens = f"src/androidTest/assets/{subject.name}/goldens"
        return files | {f"{goldens}/{each}.bin": data for each, data in subject.goldens.items()}
