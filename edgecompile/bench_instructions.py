"""`edgecompile bench --instructions`: how many instructions the emulated core executes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.bench import contender_dict
from edgecompile.connections.emulator import Emulator
from edgecompile.contender import Contender, EngineOptions
from edgecompile.instruction_count import Instructions
from edgecompile.progress import Progress
from edgecompile.text_table import render, table

_WARM_UP = 1
_ITERATIONS = 3


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The counts of one contender, a repeat for each process."""

    contender: Contender
    repeats: tuple[Instructions, ...]

    @property
    def load(self) -> int:
        """Return the median of the repeats."""
        return round(statistics.median(repeat.load for repeat in self.repeats))

    @property
    def per_inference(self) -> int:
        """Return the median of the repeats."""
        return round(statistics.median(self._inferences))

    @property
    def spread(self) -> float:
        """Return the range of the repeats' counts for an inference, by their median."""
        return (max(self._inferences) - min(self._inferences)) / self.per_inference

    @property
    def _inferences(self) -> list[int]:
        return [repeat.per_inference for repeat in self.repeats]


@dataclass(frozen=True, kw_only=True)
class InstructionBench:
    """The counts of all contenders on one emulated core."""

    connection: str
    counted: tuple[Counted, ...]

    def text(self) -> str:
        """Return the table for a terminal."""
        rows = table("artifact", "weights", "per inference", "ratio", "spread", "load")
        first = self.counted[0].per_inference
        for row in self.counted:
            rows.add_row(
                row.contender.label,
                row.contender.precision,
                f"{row.per_inference / 1e6:.2f} M",
                f"{row.per_inference / first:.3f}",
                f"{row.spread:.4%}",
                f"{row.load / 1e6:.2f} M",
            )
        repeats, iterations = len(self.counted[0].repeats), len(self.counted[0].repeats[0].iterations)
        head = f"{self.connection}, executed instructions, 1 thread, {repeats} processes of {iterations} each"
        return "\n".join([head + "\n", render(rows)])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON's types."""
        return {
            "connection": self.connection,
            "threads": 1,
            "artifacts": [
                {
                    **contender_dict(row.contender),
                    "instructions": {
                        "load": row.load,
                        "per_inference": row.per_inference,
                        "spread": row.spread,
                        "repeats": [
                            {"load": repeat.load, "iterations": list(repeat.iterations)}
                            for repeat in row.repeats
                        ],
                    },
                }
                for row in self.counted
            ],
        }


def bench_instructions(
    contenders: Sequence[Contender], emulator: Emulator, *, repeats: int, progress: Progress
) -> InstructionBench:
    """Count the instructions of each contender.

    Args:
        contenders: At least one.
        emulator: One that counts.
        repeats: Processes for each contender; that all agree is the proof of the count.
        progress: Is told of each process.

    Raises:
        RunnerFailedError: Nothing was counted.
    """
    progress.start("count instructions", total=repeats * len(contenders))
    counted = []
    for contender in contenders:
        found = []
        for _ in range(repeats):
            contender.run(emulator, EngineOptions(), warmup=_WARM_UP, iterations=_ITERATIONS)
            found.append(emulator.instructions())
            progress.advance()
        counted.append(Counted(contender=contender, repeats=tuple(found)))
    progress.finish()
    return InstructionBench(connection=emulator.description, counted=tuple(counted))
