"""Keeps the libraries' own notices off the terminal: stderr is for our progress and our errors."""

from __future__ import annotations

import logging
import sys
import warnings

# Each says at every start what a user of the command line can do nothing about: optional CUDA extensions
# that are not there, and calls between these libraries that are deprecated.
_LOGGERS = ("torchao", "torch.utils._pytree")
_MODULES = r"(torch|torchao|executorch|onnx|onnxscript|onnxruntime|copyreg)(\.|$)"


def quiet_libraries() -> None:
    """Show only errors of these loggers, and no warnings from inside these modules.

    Called by the command line alone: a program that imports edgecompile keeps its own settings, and so
    does who asks Python for warnings with `-W` or PYTHONWARNINGS.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=_MODULES)
