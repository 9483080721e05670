"""ONNX Runtime's profile, a list of Chrome trace events: the time of each node in each run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from edgecompile.operator_times import OperatorCall, TracedRun

_RUN = "model_run"
_KERNEL = "_kernel_time"


class _Event(BaseModel):
    """One complete event; times in microseconds."""

    cat: str
    ph: Literal["X"]
    name: str
    ts: Annotated[float, Field(ge=0)]
    dur: Annotated[float, Field(ge=0)]
    args: dict[str, Any]


def read_runs(data: bytes) -> tuple[TracedRun, ...]:
    """Return the runs in order.

    Raises:
        ValueError: It is no profile, or a damaged one.
    """
    events = TypeAdapter(list[_Event]).validate_json(data)
    nodes = [event for event in events if event.cat == "Node" and event.name.endswith(_KERNEL)]
    return tuple(
        TracedRun(
            start_us=run.ts,
            duration_us=run.dur,
            calls=tuple(_call(node) for node in nodes if run.ts <= node.ts <= run.ts + run.dur),
        )
        for run in events
        if run.name == _RUN
    )


def _call(node: _Event) -> OperatorCall:
    name = node.name.removesuffix(_KERNEL)
    return OperatorCall(
        name=name, kind=str(node.args.get("op_name", name)), start_us=node.ts, duration_us=node.dur
    )
