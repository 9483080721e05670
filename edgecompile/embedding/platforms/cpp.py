"""A CMake library in C++17 on ONNX Runtime or ExecuTorch, with static types and a self-test."""

from __future__ import annotations

from typing import ClassVar

from edgecompile import shipped
from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject

_ENGINES = {"onnx": "onnxruntime", "pte": "executorch"}

# ONNX's TensorProto.DataType and ExecuTorch's ScalarType.
_ELEMENT_TYPES = {
    "onnx": {
        "float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float64": 11,
    },
    "pte": {
        "uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4, "float32": 6, "float64": 7, "bool": 11,
    },
}  # fmt: skip

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t
class compl concept const consteval constexpr constinit const_cast continue co_await co_return co_yield
decltype default delete do double dynamic_cast else enum explicit export extern false float for friend
goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private
protected public register reinterpret_cast requires return short signed sizeof static static_assert
static_cast struct switch template this thread_local throw true try typedef typeid typename union
unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_MACROS = "assert errno linux unix stdin stdout stderr NULL EOF NAN INFINITY RAND_MAX BUFSIZ"


class Cpp(Platform):
    """The platform `cpp`."""

    formats = ("onnx", "pte")
    types: ClassVar[dict[str, str]] = {
        "float32": "float",
        "float64": "double",
        "int8": "int8_t",
        "uint8": "uint8_t",
        "int16": "int16_t",
        "int32": "int32_t",
        "int64": "int64_t",
        "bool": "uint8_t",
    }
    verifies_signatures = True
    reserved = frozenset({*_KEYWORDS.split(), *_MACROS.split(), "Tensor"})
    reserved_names = frozenset({"std", "ort", "executorch", "torch", "onnxruntime", "main", "test", "assets"})

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a CMake project."""
        engine, name = _ENGINES[subject.artifact.format], subject.name
        templates = {
            "CMakeLists.txt": "CMakeLists.txt.j2",
            "README.md": "README.md.j2",
            "engine.cmake": f"{engine}.cmake.j2",
            "artifact.S.in": "artifact.S.in.j2",
            "self_test.cpp": "self_test.cpp.j2",
            f"{name}/tensor.h": "tensor.h.j2",
            f"{name}/model.h": "model.h.j2",
            f"{name}/model.cpp": "model.cpp.j2",
            f"{name}/engine.h": "engine.h.j2",
            f"{name}/engine.cpp": f"{engine}.cpp.j2",
        }
        if subject.picture:
            templates |= {f"{name}/picture.{kind}": f"picture.{kind}.j2" for kind in ("h", "cpp")}
        if subject.classes:
            templates |= {f"{name}/classes.{kind}": f"classes.{kind}.j2" for kind in ("h", "cpp")}
        if subject.classifies:
            templates["classify.cpp"] = "classify.cpp.j2"
        if subject.signed:
            templates |= {f"{name}/signature.{kind}": f"signature.{kind}.j2" for kind in ("h", "cpp")}
        more = {
            "engine": engine,
            "element_types": _ELEMENT_TYPES[subject.artifact.format],
            "labels": [_literal(label) for label in subject.labels or ()],
        }
        files = {path: rendered(f"cpp/{template}", subject, **more) for path, template in templates.items()}
        source = shipped.runners_folder() / "source"
        shared = ["status.h", "sha256.h", "sha256.cpp"]
        shared += ["engines/onnxruntime_api.h"] if engine == "onnxruntime" else []
        for path in shared:
            # Two models in one program must not define the same names.
            text = (
                (source / path)
                .read_text(encoding="utf-8")
                .replace("namespace edgecompile", f"namespace {name}")
            )
            files[f"{name}/{path.rpartition('/')[2]}"] = text.encode()
        files |= {f"assets/{each}": data for each, data in subject.artifact_files.items()}
        return files | {f"assets/goldens/{each}.bin": data for each, data in subject.goldens.items()}


def _literal(text: str) -> str:
    """Return a text as a literal of its UTF-8; three octal digits cannot run into what follows."""
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'
