"""What each layer of a program costs: counted once, whatever is emitted from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.program import QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.layer_costs import CostReport


class KeptCosts:
    """Keeps the rows of the report."""

    name = "costs"

    def write(self, value: CostReport, file: HashedFile) -> dict[str, Any]:
        """Write the rows as JSON."""
        file.write(json.dumps(value.to_dict()).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> CostReport:
        """Return the rows."""
        from pydantic import TypeAdapter

        from edgecompile.layer_costs import CostReport

        return TypeAdapter(CostReport).validate_json(path.read_bytes())

    def can_keep(self, value: CostReport) -> bool:
        """Rows can always be kept."""
        return True


def layer_costs(cache: StageCache, program: Result[QuantizedProgram]) -> Result[CostReport]:
    """Return what each layer of a program costs."""

    def make() -> CostReport:
        from edgecompile.count_costs import count_costs

        return count_costs(program.value())

    return cache.result(KeptCosts(), digest("costs", program.digest, tools()), make)
