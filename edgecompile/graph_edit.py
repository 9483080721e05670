"""Editing an `ExportedProgram`: a working copy with constants at hand, and a new program at the end.

`torch.export` lifts parameters, buffers and constants into placeholders, and keeps their values and
their bookkeeping in four other places. A pass wants none of that: it asks for the value behind a node,
adds a constant, rewrites nodes, and gets a verified program back.
"""

from __future__ import annotations

import copy
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
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
from torch.fx.experimental.symbolic_shapes import statically_known_true

Operator = Callable[..., Any]


class ProgramEditor:
    """A working copy of a program: `graph` may be changed freely until `finish()`.

    Attributes:
        graph: The copied ATen graph, with lifted constants as placeholders.
        rewrites: How many places were changed; the pass counts.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self._exported = exported
        self.graph: Graph = _copy_graph(exported.graph)
        self.rewrites = 0
        self._constants: dict[str, torch.Tensor] = {}
        self._user_inputs = frozenset(user_input_names(exported))
        for spec in exported.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                continue
            assert spec.target is not None
            source = exported.constants if spec.target in exported.constants else exported.state_dict
            self._constants[spec.arg.name] = source[spec.target].detach()

    def constant(self, node: object) -> torch.Tensor | None:
        """Return the value of a lifted parameter, buffer or constant, or None for any other node."""
        if not isinstance(node, Node) or node.op != "placeholder":
            return None
        return self._constants.get(node.name)

    def is_user_input(self, node: object) -> bool:
        """Tell whether a node is an input of the model."""
        return isinstance(node, Node) and node.op == "placeholder" and node.name in self._user_inputs

    def calls(self, *targets: Operator) -> Iterator[Node]:
        """Yield the calls of these operators, or of any operator, in topological order."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and (not targets or node.target in targets):
                yield node

    def add_constant(self, name: str, value: torch.Tensor) -> Node:
        """Add a lifted constant and return its placeholder; `name` is made unique."""
        value = value.detach().contiguous()
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node = self.graph.placeholder(re.sub(r"\W", "_", name))
        node.target = node.name  # the generated code names the argument by it
        node.meta["val"] = self._fake_mode.from_tensor(value, static_shapes=True)
        self._constants[node.name] = value
        return node

    def set_constant(self, node: Node, value: torch.Tensor) -> None:
        """Give a constant another value, of any shape; `refresh` tells its readers."""
        self._constants[node.name] = value.detach().contiguous()
        node.meta["val"] = self._fake_mode.from_tensor(self._constants[node.name], static_shapes=True)

    def insert(
        self,
        before: Node,
        target: Operator,
        *args: Any,
        keywords: Mapping[str, Any] | None = None,
        like: Node | None = None,
    ) -> Node:
        """Insert a call before a node; `like` gives the source line to show for it."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, dict(keywords or {}))
        origin = before if like is None else like
        node.meta = {
            key: origin.meta[key] for key in ("stack_trace", "nn_module_stack") if key in origin.meta
        }
        node.meta["val"] = fake_result(node, self._fake_mode)
        return node

    def replace(self, node: Node, replacement: Node) -> None:
        """Let all users of `node` use `replacement`, erase `node`, and count one rewrite."""
        node.replace_all_uses_with(replacement)
        self.graph.erase_node(node)
        self.rewrites += 1

    def refresh(self) -> None:
        """Compute all values' shapes and strides anew, after an edit that changed memory layouts."""
        for node in self.calls():
            node.meta["val"] = fake_result(node, self._fake_mode)

    def allow_any_layout(self) -> None:
        """Let every view copy where it must, after an edit that changed memory layouts.

        Before: `permute -> contiguous -> view`; the `contiguous` goes
        After:  `permute -> reshape`
        """
        views = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
        for node in self.calls(*views):
            node.target = torch.ops.aten.reshape.default
        self.refresh()

    def outputs(self) -> tuple[Node, ...]:
        """Return the nodes that the program returns."""
        return output_nodes(self.graph)

    def finish(self) -> ExportedProgram:
        """Return the edited program; unused constants are dropped, the signature is rebuilt."""
        self._drop_unused_constants()
        self.graph.lint()
        module = GraphModule(torch.nn.Module(), self.graph)
        names = [node.name for node in self.graph.find_nodes(op="placeholder")]
        state_dict = {name: self._constants[name] for name in names if name not in self._user_inputs}
        return ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=signature_of(module.graph, {name: name for name in state_dict}),
            state_dict=state_dict,
            range_constraints=copy.deepcopy(self._exported.range_constraints),
            module_call_graph=copy.deepcopy(self._exported.module_call_graph[:1]),
            example_inputs=self._exported.example_inputs,
            constants={},
            verifiers=self._exported.verifiers,
        )

    def _drop_unused_constants(self) -> None:
        for node in list(self.graph.find_nodes(op="placeholder")):
            if node.name in self._constants and not node.users:
                del self._constants[node.name]
                self.graph.erase_node(node)

    @cached_property
    def _fake_mode(self) -> Any:
        values = [node.meta["val"] for node in self.graph.nodes if "val" in node.meta]
        return detect_fake_mode(values)


def operand(node: Node, index: int = 0) -> Node:
    """Return an argument of a node that is known to be a node."""
    argument = node.args[index]
    assert isinstance(argument, Node)
    return argument


def reads_first_alone(node: Node) -> bool:
    """Tell whether of several values the first alone is read: the maxima, and not where they are."""
    return all(user.args[1] == 0 for user in node.users if user.users)


def per_axis(value: Any, rank: int) -> list[int]:
    """Return a setting of a layer for each of its axes; torch takes one for all of them."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    return given * rank if len(given) == 1 else given


@contextmanager
def no_host_kernels() -> Iterator[None]:
    """Keep the choice of this host's kernels out of the program.

    While shapes are traced, torch asks which kernel it would run here; for some, batches of 16 are another
    case than smaller ones, which would limit a dynamic batch to 15.
    """
    with torch.backends.nnpack.flags(enabled=False), torch.backends.mkldnn.flags(enabled=False):
        yield


def fake_result(node: Node, fake_mode: Any) -> Any:
    """Return what a call gives for the values of its arguments: shapes, types and strides alone."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    # As torch.export does it: operators in C++ would settle on the batch that the example had.
    with fake_mode, enable_python_dispatcher(), no_host_kernels():
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _copy_graph(graph: Graph) -> Graph:
    copied = copy.deepcopy(graph)
    for node, original in zip(copied.nodes, graph.nodes, strict=True):
        node.name = original.name  # a copy renames what is called as a builtin, such as `input`
    return copied


def output_nodes(graph: Graph) -> tuple[Node, ...]:
    """Return the nodes that a graph returns, in order."""
    return tuple(node for node in graph.output_node().args[0] if isinstance(node, Node))  # type: ignore[union-attr]


def signature_of(graph: Graph, targets: Mapping[str, str]) -> ExportGraphSignature:
    """Return the signature of a graph in inference mode: constants are buffers, all else is the user's.

    Args:
        graph: Its placeholders are named for good.
        targets: The name in the state dict of each placeholder that is a constant.
    """
    inputs = []
    for node in graph.find_nodes(op="placeholder"):
        argument = TensorArgument(name=node.name)
        if node.name in targets:
            inputs.append(InputSpec(InputKind.BUFFER, argument, targets[node.name], persistent=True))
        else:
            inputs.append(InputSpec(InputKind.USER_INPUT, argument, None))
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None)
        for node in output_nodes(graph)
    ]
    return ExportGraphSignature(inputs, outputs)


def user_input_names(exported: ExportedProgram) -> tuple[str, ...]:
    """Return the names of the model's inputs, in order."""
    return tuple(str(name) for name in exported.graph_signature.user_inputs)


def shape_of(node: Node) -> tuple[int | torch.SymInt, ...]:
    """Return the shape of a node's (single tensor) value."""
    return tuple(node.meta["val"].shape)


def same_shape(first: Node, second: Node) -> bool:
    """Tell whether two shapes are equal whatever the dynamic sizes are."""
    left, right = shape_of(first), shape_of(second)
    return len(left) == len(right) and all(
        statically_known_true(one == other) for one, other in zip(left, right, strict=True)
    )


def operator_name(node: Node) -> str:
    """Return an operator's short name, `conv2d` for `aten.conv2d.default`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__) if packet is not None else str(node.target)


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_PYTHON = f"{sysconfig.get_path('stdlib')}/"
_TORCH = str(Path(torch.__file__).parent)


def source_line(node: Node) -> str:
    """Return the user's source line of a node as `file.py:12`.

    Of a network out of a library that is the line of the user's that calls it. Where no line is the user's,
    it is the module's name, else the library's line, else "".
    """
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    known = [(file, line) for file, line in frames if not is_torch_file(file) and not file.startswith("<")]
    users = [(file, line) for file, line in known if not _is_library_file(file)]
    if not users and (name := module_name(node)):
        return name
    if not known:
        return ""
    file, line = (users or known)[-1]
    return f"{Path(file).name}:{line}"


def module_name(node: Node) -> str:
    """Return the module that a node is of, `features.3.conv.0`, or "" if the graph does not know it."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return str(modules[-1][0]) if modules else ""


def set_module_name(node: Node, name: str) -> None:
    """Say what module a node is of."""
    node.meta["nn_module_stack"] = {name: (name, "")}


def _is_library_file(file: str) -> bool:
    """Tell whether a source file is one of an installed package or of Python itself."""
    return "-packages/" in file or file.startswith(_PYTHON)


def is_torch_file(file: str) -> bool:
    """Tell whether a source file is one of PyTorch's own, here or where a .pt2 was captured."""
    return file.startswith((_TORCH, "torch/")) or "-packages/torch/" in file
