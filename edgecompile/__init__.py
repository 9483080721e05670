"""An edge and mobile model compiler: a PyTorch model in, validated INT8 artifacts out."""

import os

# ONNX Runtime's official builds send usage data about models. Nothing leaves the machine from here, and it
# reads this once, when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
