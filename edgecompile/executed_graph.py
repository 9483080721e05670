"""Which operators ONNX Runtime executes for a model, asked in a process of its own.

The model may come from anywhere, and a crafted one can crash a native engine or keep it busy: then the
child ends, and not the command that asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from edgecompile.errors import EngineFailedError

LONGEST_SECONDS = 120


def executed_operators(data: bytes) -> dict[str, int]:
    """Return how often each operator occurs in the graph that ONNX Runtime executes on this CPU.

    Raises:
        EngineFailedError: If ONNX Runtime rejects the model, crashes, or takes too long.
    """
    # -P and the parent's own path: never import from the folder that the user happens to stand in.
    command = [sys.executable, "-P", "-m", "edgecompile.executed_graph"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            command, input=data, env=environment, capture_output=True, timeout=LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailedError(
            "ONNX Runtime could not optimize the artifact", found=f"no answer in {LONGEST_SECONDS} seconds"
        ) from error
    if child.returncode != 0:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        found = f"exit code {child.returncode} {' '.join(last)}".strip()
        raise EngineFailedError("ONNX Runtime could not optimize the artifact", found=found)
    answer: dict[str, dict[str, int]] = json.loads(child.stdout)
    if "operators" not in answer:
        raise EngineFailedError("ONNX Runtime could not optimize the artifact", found=str(answer["failure"]))
    return answer["operators"]


def _main() -> None:
    from edgecompile.engines.onnxruntime import optimized_operators

    answer: dict[str, object]
    try:
        answer = {"operators": optimized_operators(sys.stdin.buffer.read())}
    except EngineFailedError as error:
        answer = {"failure": error.lines.get("found", error.message)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
