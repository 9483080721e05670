"""A Swift package on ExecuTorch's own, with types, pictures from Core Graphics and a self-test."""

from __future__ import annotations

from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject
from edgecompile.pipeline import LABELS, labels_data

_TYPES = {
    "float32": "Float",
    "float64": "Double",
    "int8": "Int8",
    "uint8": "UInt8",
    "int16": "Int16",
    "int32": "Int32",
    "int64": "Int64",
}

_SWIFT = """
actor any Any as associatedtype async await borrowing break case catch class consuming continue
convenience default defer deinit do dynamic each else enum extension fallthrough false fileprivate
final for func get guard if import in indirect infix init inout internal is isolated lazy let macro
mutating nil nonisolated nonmutating open operator optional override package postfix precedencegroup
prefix private protocol public repeat required rethrows return self Self set some static struct
subscript super switch throw throws true try Type Protocol typealias unowned var weak where while
"""
# What the templates call their own, or name, where inputs are parameters.
_OWN = """
module labels results checked tensor Tensor Module Value Outputs Float Double Int8 UInt8 Int16 Int32
Int64
"""
# What a class of the model's name would hide.
_TYPE_NAMES = """
array bundle data digest double executorch execu_torch float int layout channels model_error module
outputs preparation result sendable sha256 string tensor task uint8 u_int8 url value weights xct
xctest error artifact dictionary optional character set sequence self_test any_tensor scalar never
void
"""


class Ios(Platform):
    """The platform `ios`."""

    formats = ("pte",)
    types = _TYPES
    reserved = frozenset({*_SWIFT.split(), *_OWN.split()})
    reserved_names = frozenset(_TYPE_NAMES.split())

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a package for Xcode or `swift build`."""
        # A module that is called as its type hides itself.
        target = f"{subject.type_name}Model"
        sources, tests = f"Sources/{target}", f"Tests/{target}Tests"
        templates = {
            "README.md": "README.md.j2",
            "Package.swift": "Package.swift.j2",
            f"{sources}/Model.swift": "Model.swift.j2",
            f"{tests}/SelfTest.swift": "SelfTest.swift.j2",
        }
        if subject.picture:
            templates[f"{sources}/Picture.swift"] = "Picture.swift.j2"
        if subject.classes:
            templates[f"{sources}/Classes.swift"] = "Classes.swift.j2"
        files = {path: rendered(f"ios/{name}", subject, target=target) for path, name in templates.items()}
        files[f"{sources}/assets/{subject.artifact_name}"] = subject.data
        if subject.labels:
            files[f"{sources}/assets/{LABELS}"] = labels_data(subject.labels)
        return files | {f"{tests}/assets/goldens/{each}.bin": data for each, data in subject.goldens.items()}
