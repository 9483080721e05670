"""Write `digits.pt2`, the digits network of the examples, trained: `python examples/ci/make_model.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def main() -> None:
    """Export the network."""
    sys.path.insert(0, str(FOLDER.parent))
    import digits

    exported = torch.export.export(*digits.model())
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine
    torch.export.save(exported, FOLDER / "digits.pt2")


if __name__ == "__main__":
    main()
