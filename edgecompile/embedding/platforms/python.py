"""A Python package on ONNX Runtime (numpy, no torch) or ExecuTorch, with types and a self-test."""

from __future__ import annotations

import keyword
import sys
from pathlib import Path

from edgecompile import classes, picture
from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject
from edgecompile.pipeline import LABELS, labels_data

_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
_ENGINES = {"onnx": "onnxruntime", "pte": "executorch"}


class Python(Platform):
    """The platform `python`."""

    formats = ("onnx", "pte")
    types = {name: f"np.{name}" for name in ("float32", "float64", "float16", *_INTEGERS)} | {
        "bool": "np.bool_"
    }
    reserved = frozenset({*keyword.kwlist, "self"})
    # A package of such a name would hide one that it, or the app, imports; or its class one of `model.py`.
    reserved_names = frozenset(
        {
            *sys.stdlib_module_names,
            "numpy",
            "onnxruntime",
            "executorch",
            "torch",
            "pil",
            "altered_artifact_error",
            "cryptography",
            "invalid_signature_error",
        }
        | {"any", "class", "engine", "outputs", "path", "preparation", "sequence"}
    )
    dynamic_sizes = True
    verifies_signatures = True

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a project that `pip install` takes."""
        engine = _ENGINES[subject.artifact.format]
        package, assets = subject.name, f"{subject.name}/assets"
        templates = {
            "pyproject.toml": "pyproject.toml.j2",
            "README.md": "README.md.j2",
            f"{package}/__init__.py": "init.py.j2",
            f"{package}/__main__.py": "main.py.j2",
            f"{package}/engine.py": f"engine_{engine}.py.j2",
            f"{package}/model.py": "model.py.j2",
            f"{package}/self_test.py": "self_test.py.j2",
        }
        if subject.signed:
            templates[f"{package}/signature.py"] = "signature.py.j2"
        files = {path: rendered(f"python/{name}", subject, engine=engine) for path, name in templates.items()}
        files |= {f"{package}/py.typed": b""}
        files |= {f"{assets}/{name}": data for name, data in subject.artifact_files.items()}
        files |= {f"{assets}/goldens/{name}.bin": data for name, data in subject.goldens.items()}
        # The reference itself: its arithmetic cannot differ.
        if subject.picture:
            files[f"{package}/picture.py"] = Path(picture.__file__).read_bytes()
        if subject.classes:
            files[f"{package}/classes.py"] = Path(classes.__file__).read_bytes()
        if subject.labels:
            files[f"{assets}/{LABELS}"] = labels_data(subject.labels)
        return files
