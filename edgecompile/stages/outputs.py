"""What a program or an artifact gives for the evaluation samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.stage_cache import HashedFile

if TYPE_CHECKING:
    import torch

    from edgecompile.compare import Outputs


class KeptOutputs:
    """Keeps one tuple of tensors for each sample."""

    name = "outputs"

    def write(self, value: Outputs, file: HashedFile) -> dict[str, Any]:
        """Write all tensors, named by sample and output."""
        from edgecompile.tensor_file import write_tensors

        write_tensors(file, _named(value))
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> Outputs:
        """Return the outputs in order."""
        from edgecompile.tensor_file import read_tensors

        tensors, _ = read_tensors(path)
        found: list[list[torch.Tensor]] = []
        for name, tensor in tensors.items():
            sample = int(name.partition(".")[0])
            if sample == len(found):
                found.append([])
            found[sample].append(tensor)
        return [tuple(row) for row in found]

    def can_keep(self, value: Outputs) -> bool:
        """Tell whether all are dense tensors."""
        from edgecompile.tensor_file import can_hold

        return can_hold(_named(value))


def _named(value: Outputs) -> dict[str, torch.Tensor]:
    return {
        f"{sample}.{index}": tensor.detach()
        for sample, row in enumerate(value)
        for index, tensor in enumerate(row)
    }
