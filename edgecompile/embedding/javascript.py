"""What the platforms in JavaScript share: types, words, versions, and all of a project but its engine."""

from __future__ import annotations

import json

from edgecompile.embedding.platform import rendered
from edgecompile.embedding.subject import Subject

TYPES = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "int8": "Int8Array",
    "uint8": "Uint8Array",
    "int16": "Int16Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "bool": "Uint8Array",
}

_WORDS = """
arguments async await break case catch class const continue debugger default delete do else enum eval export
extends false finally for function if implements import in instanceof interface let new null package private
protected public return static super switch this throw true try typeof undefined var void while with yield
constructor prototype
"""
RESERVED = frozenset(_WORDS.split())

# The class of such a name would hide one that the files use, or the package one that it needs.
_NAMES = """
altered_artifact_error array big_int64_array blob class error float32_array float64_array image_data infinity
inputs int16_array int32_array int8_array invalid_signature_error map math node_modules number object
onnxruntime_node onnxruntime_web outputs picture promise string tensor uint8_array uint8_clamped_array worker
"""
RESERVED_NAMES = frozenset(_NAMES.split())

# What npm has of onnxruntime-node and onnxruntime-web; ONNX Runtime on PyPI may be newer.
_PUBLISHED = ("1.24.3", "1.25.1", "1.26.0", "1.27.0", "1.29.0", "1.30.0")


def npm_version(engine_version: str) -> str:
    """Return the version of ONNX Runtime's npm packages for one of its own: the newest up to its minor."""
    wanted = [int(part) for part in engine_version.split(".")[:2]]
    older = [item for item in _PUBLISHED if [int(part) for part in item.split(".")[:2]] <= wanted]
    return older[-1] if older else _PUBLISHED[0]


def shared_files(subject: Subject, platform_name: str) -> dict[str, bytes]:
    """Return the files that are the same but for a word: their templates are those of the platform `node`."""
    names = ["model.js", "index.d.ts", "self_test.js"]
    names += ["picture.js"] if subject.picture else []
    names += ["classes.js"] if subject.classes else []
    names += ["signature.js"] if subject.signed else []
    files = {name: rendered(f"node/{name}.j2", subject, platform=platform_name) for name in names}
    if subject.labels:
        # JSON of ASCII letters is JavaScript, whatever a label holds.
        files["labels.js"] = f"export const LABELS = {json.dumps(subject.labels, indent=1)};\n".encode()
    files |= {f"assets/{name}": data for name, data in subject.artifact_files.items()}
    return files | {f"assets/goldens/{name}.bin": data for name, data in subject.goldens.items()}
