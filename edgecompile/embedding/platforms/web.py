"""An ES module for browsers on onnxruntime-web, in a Web Worker, with types and a demo page."""

from __future__ import annotations

from edgecompile.embedding.javascript import RESERVED, RESERVED_NAMES, TYPES, npm_version, shared_files
from edgecompile.embedding.platform import Platform, rendered
from edgecompile.embedding.subject import Subject


class Web(Platform):
    """The platform `web`."""

    formats = ("onnx",)
    types = TYPES
    reserved = RESERVED
    reserved_names = RESERVED_NAMES
    verifies_signatures = True

    def project(self, subject: Subject) -> dict[str, bytes]:
        """Return a folder that a server of static files serves, once npm has put the engine there."""
        names = ["package.json", "README.md", "prepare.js", "index.js", "worker.js", "engine.js"]
        names += ["index.html", "demo.js", "demo.css"]
        names += ["pixels.js"] if subject.picture else []
        engine_version = npm_version(subject.artifact.engine_version)
        files = {name: rendered(f"web/{name}.j2", subject, engine_version=engine_version) for name in names}
        return files | shared_files(subject, "web")
