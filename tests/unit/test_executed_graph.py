"""The process that asks ONNX Runtime what it executes is started for every artifact that is looked at."""

import subprocess
import sys


def test_it_starts_without_torch():
    code = "import edgecompile.engines.onnxruntime, sys; print('torch' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
