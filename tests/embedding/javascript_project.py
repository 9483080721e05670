"""Projects in JavaScript, installed by npm and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgecompile.classes import Class

MODELS = ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("digits", "mobilenet_v2"))]

TYPE_NAMES = {"small": "Small", "digits": "Digits", "mobilenet_v2": "MobilenetV2"}

_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH")


def require_node(*programs: str) -> None:
    """Skip where Node.js 18 is not installed, or one of the other programs."""
    missing = [name for name in ("node", *programs) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install nodejs npm)")
    version = run(Path.cwd(), "node", "--version").stdout
    if int(version[1:].split(".")[0]) < 18:
        pytest.skip(f"Node.js 18 is needed, found {version.strip()}")


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


def npm_install(folder: Path, *packages: str) -> None:
    """Install what a project's `package.json` names, or packages; skips where no registry is reached."""
    done = run(folder, "npm", "install", "--no-audit", "--no-fund", "--prefer-offline", *packages)
    if done.returncode != 0 and any(code in done.stderr for code in _NO_NETWORK):
        pytest.skip("npm reaches no registry")
    assert done.returncode == 0, done.stdout + done.stderr


def type_errors(project: Path, compiler: Path, code: str) -> str:
    """Return what TypeScript says of code that imports `./index.js` of a project.

    Args:
        project: A project.
        compiler: A folder where `typescript` is installed.
        code: The code.
    """
    (project / "use.ts").write_text(code)
    options = {"noEmit": True, "strict": True, "target": "es2022", "module": "nodenext", "types": []}
    options["lib"] = ["es2022", "dom"]
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["use.ts"]}))
    done = run(project, "node", compiler / "node_modules/typescript/bin/tsc")
    assert (done.returncode == 0) == (done.stdout == "")
    return done.stdout


def check_classes(found: list[list[dict]], expected: list[tuple[Class, ...]]) -> None:
    """Check that the classes of all pictures are the expected ones: softmax may differ in its last bits."""
    assert len(found) == len(expected) == 10
    for row, classes in zip(found, expected, strict=True):
        assert [(each["index"], each["label"]) for each in row] == [
            (each.index, each.label) for each in classes
        ]
        assert [each["score"] for each in row] == pytest.approx([each.score for each in classes], abs=1e-12)


def floats(text: str) -> np.ndarray:
    """Return a JSON list of lists of float32, which JavaScript writes to the bit."""
    return np.array(json.loads(text), np.float64).astype(np.float32)
