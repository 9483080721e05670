"""Leaves out the passes of ExecuTorch's XNNPACK delegate that find nothing to do in a program.

The delegate runs 17 passes over the program that it is given, and each traces the whole program anew,
whether or not it changed anything; two of them also export six toy attention and resize networks, to have
patterns to search for. On a MobileNetV2 that is half of the time that ExecuTorch takes. Each pass looks for
a few operators: without them it is left out. And a pass that only rewires the graph keeps the values' shapes,
so that only nodes which it made are traced. The artifact is the same to the byte (a test compares).

ExecuTorch offers no choice of passes, so what runs and traces them is replaced for the time of a lowering,
and only in the versions that this was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from edgecompile.graph_edit import fake_result

_KNOWN_VERSIONS = ("1.5.1",)
# What no pass and no node visitor reads, but every trace copies, longer each time.
_UNREAD_METADATA = ("from_node", "nn_module_stack", "source_fn_stack", "stack_trace", "torch_fn")

# A pass that has one of these of its own rewrites while it traces.
_TRACING_HOOKS = ("call_operator", "call_submodule", "call_sym", "call_getitem", "placeholder", "output")

_COPIES = ("dim_order_ops._clone_dim_order.default", "aten.clone.default")
_BATCH_NORMS = ("aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default")


@contextmanager
def only_useful_passes() -> Iterator[None]:
    """Let the XNNPACK delegate run only those of its passes that find something to do."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack._passes.xnnpack_pass import XNNPACKPass

    if not is_known_version():
        yield
        return
    stock = xnnpack_preprocess.XNNPACKPassManager

    class UsefulPasses(stock):  # type: ignore[misc, valid-type]
        def transform(self) -> ExportedProgram:
            program: ExportedProgram = self.exported_program
            _drop_unread_metadata(program)
            for graph_pass in self.passes:
                if _is_useful(graph_pass.__name__, program):
                    program = stock(program, [graph_pass]).transform()
            return program

    xnnpack_preprocess.XNNPACKPassManager = UsefulPasses
    XNNPACKPass.call = _trace_new_nodes  # what its passes call when they have rewired the graph
    try:
        yield
    finally:
        xnnpack_preprocess.XNNPACKPassManager = stock
        del XNNPACKPass.call


def is_known_version() -> bool:
    """Tell whether this ExecuTorch is one whose internals are known."""
    return version("executorch").partition("+")[0] in _KNOWN_VERSIONS


def _trace_new_nodes(self: Any, graph_module: GraphModule) -> PassResult:
    """Stand in for `ExportPass.call`, which runs every node on fake tensors, whatever has changed."""
    from executorch.exir.pass_base import ExportPass

    overridden = [
        name for name in _TRACING_HOOKS if getattr(type(self), name) is not getattr(ExportPass, name)
    ]
    if overridden or any(node.op == "get_attr" for node in graph_module.graph.nodes):
        result: PassResult = ExportPass.call(self, graph_module)
        return result
    fake_mode = detect_fake_mode(
        [node.meta["val"] for node in graph_module.graph.nodes if "val" in node.meta]
    )
    assert fake_mode is not None
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            node.meta["val"] = fake_result(node, fake_mode)
    return PassResult(graph_module, True)


def _drop_unread_metadata(program: ExportedProgram) -> None:
    for node in program.graph.nodes:  # of a copy that the delegate's preparation owns
        for key in _UNREAD_METADATA:
            node.meta.pop(key, None)


def _is_useful(name: str, program: ExportedProgram) -> bool:
    can_act_on = _CAN_ACT_ON.get(name)
    return can_act_on is None or any(can_act_on(node) for node in program.graph.nodes)


def _calls(*operators: str) -> Callable[[Node], bool]:
    return lambda node: node.op == "call_function" and _name(node) in operators


def _name(node: Node) -> str:
    target: Any = node.target
    return str(target.__name__)


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
    "ConvertToSDPAPass": _calls("aten._softmax.default"),
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
