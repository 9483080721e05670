"""What was measured of the operators that were left as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecompile.artifact import Artifact
from edgecompile.operator_times import OperatorTime
from edgecompile.report_page.measured import Times
from edgecompile.why_not import QUANTIZE, WhyNot

# ExecuTorch's trace tells operators outside delegates by their kernels, ONNX Runtime's each node by its name.
_BY_KERNEL, _BY_NODE = "pte", "onnx"


def time_shares(
    rows: Sequence[WhyNot], artifacts: Sequence[Artifact], documents: Sequence[Times]
) -> dict[WhyNot, float]:
    """Return the share of an inference, 0 to 1, of each row whose operator has a time.

    An emitter's row has that of its format's artifact. A row of the quantization is of all artifacts: it has
    that of the `.onnx`, whose nodes are called as the program's. Calls of one kernel share its time evenly.
    """
    shares = {}
    for row in rows:
        name = _BY_NODE if row.stage == QUANTIZE else row.format
        hashes = {item.sha256 for item in artifacts if item.format == name}
        found = [_share(row.timed_as, name, times) for times in _operators(hashes, documents)]
        known = [share for share in found if share is not None]
        if known and row.timed_as:
            shares[row] = known[0]
    return shares


def _operators(hashes: set[str], documents: Sequence[Times]) -> Iterator[tuple[OperatorTime, ...]]:
    for times in documents:
        for item in times.artifacts:
            if item.sha256 in hashes and times.operators and item.artifact in times.operators:
                yield times.operators[item.artifact].operators


def _share(timed_as: str, format_name: str, operators: tuple[OperatorTime, ...]) -> float | None:
    if format_name == _BY_KERNEL:
        # `mean.out` and `mul.Scalar_out`: what a delegate computes bears other names.
        own = [row for row in operators if row.name.partition(".")[0] == timed_as]
    else:
        own = [row for row in operators if row.name == timed_as]
    calls = sum(row.calls for row in own)
    return sum(row.share for row in own) / calls if calls else None
