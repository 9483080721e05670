"""One engine a file: runs artifacts in Python on this host."""

import os

# Else ONNX Runtime writes an identifier into the home folder and sends events over the network; it looks
# when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
