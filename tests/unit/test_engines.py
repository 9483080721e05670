import os
import subprocess
import sys


def test_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import edgecompile.engines, onnxruntime"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("deviceid"))
