"""Leaves out the passes of ExecuTorch's XNNPACK delegate that find nothing to do in a program.

The delegate runs 17 passes over the program that it is given, and each traces the whole program anew,
whether or not it changed anything; two of them also export six toy attention and resize networks, to have
patterns to search for. On a MobileNetV2 that is half of the time that ExecuTorch takes. Each pass looks for
a few operators: without them it is left out, and the artifact is the same to the byte (a test compares).
Three that mostly do find something only move nodes about: they go without the trace at their end.

ExecuTorch offers no choice of passes, so the class that runs them is replaced for the time of a lowering,
and only in the versions that this was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, OutputSpec, TensorArgument
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgecompile.emitters._fixed_signature import fix_signature
from edgecompile.emitters._known_versions import is_known
from edgecompile.graph_edit import output_nodes

# What no pass and no node visitor reads, but every trace copies, longer each time.
_UNREAD_METADATA = ("from_node", "nn_module_stack", "source_fn_stack", "stack_trace", "torch_fn")

# The passes that change no node's shape or type: they fuse, insert and remove nodes.
_KEEP_VALUES = ("FuseActivationPass", "ChannelsLastTaggedReshapePass", "RemoveRedundantCopyPass")

_COPIES = ("dim_order_ops._clone_dim_order.default", "aten.clone.default")
_BATCH_NORMS = ("aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default")


@contextmanager
def only_useful_passes() -> Iterator[None]:
    """Let the XNNPACK delegate run only those of its passes that find something to do."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    if not is_known("executorch"):
        yield
        return
    stock = xnnpack_preprocess.XNNPACKPassManager

    class UsefulPasses(stock):  # type: ignore[misc, valid-type]
        def transform(self) -> ExportedProgram:
            program: ExportedProgram = self.exported_program
            _drop_unread_metadata(program)
            _dequantize_apart(program)
            for graph_pass in self.passes:
                if not _is_useful(graph_pass.__name__, program):
                    continue
                if graph_pass.__name__ in _KEEP_VALUES:
                    _without_tracing(graph_pass)(program).call(program.graph_module)
                    _name_outputs(program)
                else:
                    program = stock(program, [graph_pass]).transform()
            fix_signature(program)  # what follows only reads
            return program

    xnnpack_preprocess.XNNPACKPassManager = UsefulPasses
    try:
        yield
    finally:
        xnnpack_preprocess.XNNPACKPassManager = stock


def _dequantize_apart(program: ExportedProgram) -> None:
    """Give readers of a picture that want it in different orders a dequantize node for each order.

    The pass that turns pictures turns one for all that read the same node, also for what it has found to take
    it as it was.
    """
    for node in list(program.graph.nodes):
        if "dequantize_per_tensor" in _name(node) and len(node.users) > 1 and node.meta["val"].dim() == 4:
            for readers in _by_order(node)[1:]:
                with program.graph.inserting_after(node):
                    apart = program.graph.node_copy(node)
                for reader in readers:
                    reader.replace_input_with(node, apart)
    _name_outputs(program)


def _by_order(node: Node) -> list[list[Node]]:
    """Return the readers of a picture that can share a node: by the order of its axes that they want."""
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (
        ChannelsLastTaggedReshapePass as Turning,
    )

    in_order: list[Node] = []
    channels_last: list[Node] = []
    either: list[Node] = []
    alone: list[list[Node]] = []
    for reader in (other for other in node.graph.nodes if other in node.users):
        others = [source for source in reader.all_input_nodes if source is not node]
        wants_order = reader.op == "output" or reader.target in Turning.memory_sensitive_ops_nchw
        if wants_order or _name(reader) == "aten.view_copy.default":
            in_order.append(reader)
        elif reader.target in Turning.memory_sensitive_ops_nhwc:
            channels_last.append(reader)
        elif any(source.meta["val"].dim() != 4 for source in others):
            in_order.append(reader)  # what has no channels cannot be turned to them
        elif others and (not channels_last or any(source.op == "placeholder" for source in others)):
            alone.append([reader])
        else:
            (channels_last or either).append(reader)  # it takes the order of those before it
    return [group for group in (either, channels_last, in_order, *alone) if group]


def _name_outputs(program: ExportedProgram) -> None:
    """Name the outputs after their nodes: what an activation was fused into may be one now."""
    before = program.graph_signature
    outputs = [
        OutputSpec(spec.kind, TensorArgument(name=node.name), spec.target)
        for node, spec in zip(output_nodes(program.graph), before.output_specs, strict=True)
    ]
    program._graph_signature = ExportGraphSignature(before.input_specs, outputs)


def _drop_unread_metadata(program: ExportedProgram) -> None:
    for node in program.graph.nodes:  # of a copy that the delegate's preparation owns
        for key in _UNREAD_METADATA:
            node.meta.pop(key, None)


def _without_tracing(graph_pass: type[Any]) -> type[Any]:
    """Return a pass without the trace of the whole program that it ends with."""
    from executorch.backends.xnnpack._passes.xnnpack_pass import XNNPACKPass
    from executorch.exir.pass_base import PassResult

    class KnownValues(XNNPACKPass):  # type: ignore[misc]
        def call(self, graph_module: GraphModule) -> PassResult:
            """Compute the values of new nodes only: what a pass calls when it has changed the graph."""
            for node in graph_module.graph.nodes:
                if node.op == "call_function" and ("val" not in node.meta or _has_another_value(node)):
                    node.meta["val"] = _value(node)
            return PassResult(graph_module, True)

    def create_call_function_node(self: Any, *args: Any, **kwargs: Any) -> Node:
        node: Node = graph_pass.create_call_function_node(self, *args, **kwargs)
        node.meta = _LateValue(node)
        return node

    own = {"create_call_function_node": create_call_function_node}
    # The pass calls the next class in the order of resolution, which comes before the one that traces.
    return type(graph_pass.__name__, (graph_pass, KnownValues), own)


class _LateValue(dict[str, Any]):
    """What is known of a new node, and of those that get a copy of it: its value only when it is asked for.

    The pass that turns pictures asks for the value of what it has inserted, where that is an output.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def __missing__(self, key: str) -> Any:
        if key != "val":
            raise KeyError(key)
        return _value(self._node)

    def copy(self) -> _LateValue:
        found = _LateValue(self._node)
        found.update(self)
        return found


def _value(node: Node) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    assert callable(node.target)
    with detect_fake_mode(args) or nullcontext():
        return node.target(*args, **kwargs)


def _has_another_value(node: Node) -> bool:
    """Tell whether a new node's value is that of the node before it: integers, which it makes real.

    The pass that inserts `dequantize, copy, quantize` after a quantize copies all that is known of that.
    """
    return "dequantize_per_tensor" in _name(node) and not node.meta["val"].is_floating_point()


def _is_useful(name: str, program: ExportedProgram) -> bool:
    can_act_on = _CAN_ACT_ON.get(name)
    return can_act_on is None or any(can_act_on(node) for node in program.graph.nodes)


def _calls(*operators: str) -> Callable[[Node], bool]:
    return lambda node: node.op == "call_function" and _name(node) in operators


def _name(node: Node) -> str:
    return str(getattr(node.target, "__name__", ""))


def _computes_a_constant(node: Node) -> bool:
    return node.op == "call_function" and not node.all_input_nodes


def _is_conv1d(node: Node) -> bool:
    return _calls("aten.convolution.default")(node) and node.meta["val"].dim() == 3


def _is_long_cat(node: Node) -> bool:
    if not _calls("aten.cat.default")(node):
        return False
    tensors = node.args[0]
    assert isinstance(tensors, list | tuple)
    return len(tensors) > 5


# The nodes that each pass can act on; a pass that is not listed always runs.
_CAN_ACT_ON: dict[str, Callable[[Node], bool]] = {
    "XNNPACKRemoveCloneOpsTransform": _calls(*_COPIES),
    "DimOrderOpsRevertPass": lambda node: node.op == "call_function" and "dim_order" in _name(node),
    "ConvertToUpsampleBilinear2d": _calls("aten.upsample_bilinear2d.vec"),
    "ConvertToLinearPass": _calls("aten.mm.default", "aten.addmm.default", "aten.bmm.default"),
    "PropagateCustomMetaPass": lambda node: "custom" in node.meta,
    # Each of its patterns masks what a softmax makes of a row that is all minus infinity.
    "ConvertToSDPAPass": _calls("aten.logical_not.default"),
    "ConstPropPass": _computes_a_constant,
    "FuseBatchNormPass": _calls(*_BATCH_NORMS),
    "DecomposeBatchNorm": _calls(*_BATCH_NORMS),
    "FuseActivationPass": _calls("aten.relu.default", "aten.hardtanh.default"),
    "DecomposeConcatenate": _is_long_cat,
    "RemoveGetItemPass": _calls("aten.max_pool2d_with_indices.default", "aten.max.dim"),
    "InsertPadQDQPass": _calls("aten.constant_pad_nd.default"),
    "Conv1dUnsqueezePass": _is_conv1d,
    "PReLUReshapePass": _calls("aten._prelu_kernel.default"),
    "RemoveRedundantCopyPass": _calls("aten._to_copy.default"),
}
