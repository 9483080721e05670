"""A TypeScript package on react-native-executorch, with a hook, types and a self-test."""

from __future__ import annotations

import json

from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject

# What react-native-executorch has as `DType`.
_TYPES = {
    "float32": "Float32Array",
    "uint8": "Uint8Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "bool": "Uint8Array",
}

# Inputs and outputs are properties, which may be anything; they are kept from these all the same.
_TYPESCRIPT = """
arguments async await break case catch class const constructor continue debugger default delete do
else enum eval export extends false finally for function get if implements import in instanceof
interface let new null of package private protected public return set static super switch this throw
true try type typeof undefined var void while with yield
"""
# What a type of the model's name, or its hook or factory, would hide.
_TYPE_NAMES = """
array artifact big_int64_array class error inputs int32_array float32_array math number object
outputs preparation promise react_native_blob_util string tensor uint8_array energies self_test set
map boolean symbol model resource_scope
"""


class ReactNative(Platform):
    """The platform `react-native`."""

    formats = ("pte",)
    types = _TYPES
    reserved = frozenset(_TYPESCRIPT.split())
    reserved_names = frozenset(_TYPE_NAMES.split())

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a package that an app's `package.json` names by its path."""
        templates = {
            "README.md": "README.md.j2",
            "package.json": "package.json.j2",
            "tsconfig.json": "tsconfig.json.j2",
            "src/index.ts": "index.ts.j2",
            "src/artifact.ts": "artifact.ts.j2",
            "src/hook.ts": "hook.ts.j2",
            "src/model.ts": "model.ts.j2",
            "src/selfTest.ts": "selfTest.ts.j2",
        }
        if subject.picture:
            templates["src/picture.ts"] = "picture.ts.j2"
        if subject.classes:
            templates["src/classes.ts"] = "classes.ts.j2"
        more = {"labels": [json.dumps(label) for label in subject.labels or ()]}
        files = {path: rendered(f"react-native/{name}", subject, **more) for path, name in templates.items()}
        assets = f"assets/{subject.name}"
        files[f"{assets}/{subject.artifact_name}"] = subject.data
        return files | {f"{assets}/goldens/{each}.bin": data for each, data in subject.goldens.items()}
