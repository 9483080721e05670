"""A program in ExecuTorch's edge dialect, made node by node from another program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.traceback import NodeSource

from edgecompile.graph_edit import output_nodes, user_input_names

if TYPE_CHECKING:
    from executorch.exir import EdgeCompileConfig

_KEPT_METADATA = ("val", "from_node", "stack_trace")


class EdgeGraph:
    """A program in the making; the one that it is made from is left as it was.

    Attributes:
        exported: The program that it is made from; its weights are shared.
        graph: The graph so far.
        copies: For each node of `exported` so far, the node that computes the same.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.graph = Graph()
        self.copies: dict[Node, Node] = {}
        self._numbers: dict[str, torch.Tensor] = {}
        self._user_inputs = user_input_names(exported)

    def copy(self, node: Node) -> Node:
        """Add a node as it is."""
        return self.graph.node_copy(node, self.copies.__getitem__)

    def copied(self, arguments: Any) -> Any:
        """Return arguments with the copies of their nodes."""
        return map_arg(arguments, self.copies.__getitem__)

    def call(self, origin: Node, target: Any, *arguments: Any, **keywords: Any) -> Node:
        """Add a call whose arguments are nodes of this graph; its value is like that of `origin`."""
        from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge

        call = self.graph.call_function(aten_to_edge(target), arguments, keywords)
        call.meta = {"from_node": [NodeSource(origin)]}
        call.meta |= {key: origin.meta[key] for key in _KEPT_METADATA if key in origin.meta}
        value = call.meta["val"]
        if not value.is_contiguous():  # what was a view of another order is a copy here
            with value.fake_mode:
                call.meta["val"] = torch.empty(value.shape, dtype=value.dtype)
        return call

    def number(self, origin: Node, value: float) -> Node:
        """Add a number as a tensor of the type of `origin`, as ExecuTorch does: as one more weight."""
        name = f"_lifted_tensor_constant{len(self.exported.state_dict) + len(self._numbers)}"
        tensor = self._numbers[name] = torch.tensor(value)
        mode, dtype = origin.meta["val"].fake_mode, origin.meta["val"].dtype
        first_input = next(node for node in self.copies if node.name in self._user_inputs)
        with self.graph.inserting_before(self.copies[first_input]):
            weight = self.graph.placeholder(name)
        weight.meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        if tensor.dtype == dtype:
            return weight
        to_type = torch.ops.dim_order_ops._to_dim_order_copy.default
        converted = self.call(origin, to_type, weight, dtype=dtype, dim_order=[])
        with mode:
            converted.meta["val"] = torch.empty((), dtype=dtype)
        return converted

    def finish(self, config: EdgeCompileConfig) -> ExportedProgram:
        """Return the program, which is verified with `config`."""
        from executorch.exir.passes.debug_handle_generator_pass import DebugHandleGeneratorPass
        from executorch.exir.verification.verifier import EXIREdgeDialectVerifier

        module = GraphModule(torch.nn.Module(), self.graph)
        DebugHandleGeneratorPass()(module)  # numbers the origins: a node's handle in profiles
        for node in self.graph.nodes:
            node.meta.pop("from_node", None)  # every trace would copy it, longer each time
        return ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=self._signature(),
            state_dict=self.exported.state_dict | self._numbers,
            range_constraints=self.exported.range_constraints,
            module_call_graph=self.exported.module_call_graph,
            example_inputs=self.exported.example_inputs,
            constants=self.exported.constants,
            verifiers=[EXIREdgeDialectVerifier(edge_compile_config=config, class_only=True)],
        )

    def _signature(self) -> ExportGraphSignature:
        # Copying a graph renames what is called as a builtin, such as `input`.
        names = {node.name: copy.name for node, copy in self.copies.items()}
        inputs = [
            InputSpec(spec.kind, TensorArgument(name=names[spec.arg.name]), spec.target, spec.persistent)
            for spec in self.exported.graph_signature.input_specs
        ]
        weights = [spec for spec in inputs if spec.kind != InputKind.USER_INPUT]
        weights += [
            InputSpec(InputKind.BUFFER, TensorArgument(name=name), name, True) for name in self._numbers
        ]
        outputs = [
            OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None)
            for node in output_nodes(self.graph)
        ]
        user_inputs = [spec for spec in inputs if spec.kind == InputKind.USER_INPUT]
        return ExportGraphSignature([*weights, *user_inputs], outputs)
