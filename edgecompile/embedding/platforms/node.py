"""An ES module for Node.js on onnxruntime-node, with TypeScript types and a self-test."""

from __future__ import annotations

from edgecompile.embedding.javascript import RESERVED, RESERVED_NAMES, TYPES, npm_version, shared_files
from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject


class Node(Platform):
    """The platform `node`."""

    formats = ("onnx",)
    types = TYPES
    reserved = RESERVED
    reserved_names = RESERVED_NAMES
    verifies_signatures = True

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a package that `npm install` takes."""
        names = ["package.json", "README.md", "index.js", "engine.js", "main.js"]
        engine_version = npm_version(subject.artifact.engine_version)
        files = {name: rendered(f"node/{name}.j2", subject, engine_version=engine_version) for name in names}
        # The engine's own script would look for CUDA and fetch what runs there; what the CPU needs is there.
        return files | {".npmrc": b"ignore-scripts=true\n"} | shared_files(subject, "node")
