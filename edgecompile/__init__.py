"""An edge and mobile model compiler: a PyTorch model in, validated INT8 artifacts out."""

__version__ = "0.1.0"
