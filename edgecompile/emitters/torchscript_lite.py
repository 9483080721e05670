"""Emits `.ptl` for the lite interpreter: quantized layers become `quantized::` kernels.

The program is printed as TorchScript, one line a node, and compiled. Between kernels activations are
quint8 tensors: the same integers moved by 128, with the zero point moved too.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from edgecompile.artifact import Emitted
from edgecompile.decline import decline
from edgecompile.emitter import Foreseen
from edgecompile.emitters._torchscript_layers import LOWERINGS, UNSIGNED, quantized_weight, quint8
from edgecompile.engines.torchscript_lite import TorchscriptLite as Engine
from edgecompile.engines.torchscript_lite import qnnpack
from edgecompile.errors import LoweringFailedError
from edgecompile.graph_edit import user_input_names
from edgecompile.program import Declined, QuantizedProgram, Reason
from edgecompile.quantize.dynamic_layers import DynamicLayer, dynamic_layers
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    DEQUANTIZE_PER_CHANNEL,
    QUANTIZE,
    QuantizedLayer,
    constants_of,
    parameters_of,
    quantized_layers,
    weights_of,
)

if TYPE_CHECKING:
    from edgecompile.target import EmitSettings


class TorchscriptLite:
    """The emitter of `.ptl`."""

    format = "ptl"
    engine = "torchscript-lite"
    suffix = ".ptl"

    @staticmethod
    def emit(program: QuantizedProgram, settings: EmitSettings) -> Emitted:
        """Lower a program to TorchScript and save it for the lite interpreter.

        Raises:
            LoweringFailedError: TorchScript has no form of an operator.
        """
        with qnnpack(), torch.no_grad():
            printer = Printer(program)
            try:
                source = printer.source()
                module = _compile(source, printer.attributes)
                data = module._save_to_buffer_for_lite_interpreter()
            except Exception as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                raise LoweringFailedError(
                    f"TorchScript cannot express the program: {lines[0] if lines else error!r}",
                    where="\n".join(lines[-3:]),
                    hint="leave the format out with --format, or replace the operator in the model",
                ) from error
        return Emitted(
            format=TorchscriptLite.format,
            engine=TorchscriptLite.engine,
            engine_version=Engine.version(),
            data=data,
            operators=dict(sorted(printer.operators.items())),
            delegates={},
            declined=tuple(printer.declined),
        )

    @staticmethod
    def foresee(program: QuantizedProgram, settings: EmitSettings) -> Foreseen:
        """Return what `emit` would say."""
        with qnnpack(), torch.no_grad():
            printer = Printer(program)
            printer.source()
        return Foreseen(delegates={}, declined=tuple(printer.declined))


_classes: dict[str, type[torch.nn.Module]] = {}


def _compile(source: str, attributes: dict[str, Any]) -> torch.jit.ScriptModule:
    # TorchScript numbers classes of one name in the order in which a process meets them, and writes the
    # number into the file; a name made from the content is the same in every process.
    digest = hashlib.sha256(source.encode())
    for name, value in attributes.items():
        digest.update(f"{name} {type(value)}".encode())
    name = f"Program_{digest.hexdigest()[:16]}"
    if name not in _classes:
        _classes[name] = type(name, (torch.nn.Module,), {"__module__": "edgecompile"})
    module = _classes[name]()
    for attribute, value in attributes.items():
        if isinstance(value, torch.Tensor):
            module.register_buffer(attribute, value)
        else:
            setattr(module, attribute, value)
    scripted = torch.jit.script(module.eval())
    if not scripted._c._has_method("forward"):
        scripted.define(source)
    return scripted


class Printer:
    """Prints a program as the source of `forward`, and collects the constants that it names."""

    def __init__(self, program: QuantizedProgram) -> None:
        self.attributes: dict[str, Any] = {}
        self.operators: Counter[str] = Counter()
        self.declined: list[Declined] = []
        self._exported = program.exported
        self._constants = constants_of(program.exported)
        self._layers = {layer.output: layer for layer in quantized_layers(program.exported)}
        self._inside = {node for layer in self._layers.values() for node in layer.nodes}
        dynamic = dynamic_layers(program.exported)
        self._dynamic = {layer.compute: layer for layer in dynamic}
        self._inside |= {node for layer in dynamic for node in layer.interior}
        self._lines: list[str] = []

    def source(self) -> str:
        """Return the source of `forward`."""
        arguments = ", ".join(["self", *user_input_names(self._exported)])
        for node in self._exported.graph.nodes:
            self._print(node)
        return "\n    ".join([f"def forward({arguments}):", *self._lines]) + "\n"

    def _print(self, node: Node) -> None:
        if node.op == "output":
            self._print_output(node)
        elif node in self._layers:
            layer = self._layers[node]
            lower = LOWERINGS.get(layer.kind)
            if lower is None:
                self.print_in_float(layer)
            else:
                lower(self, layer)
        elif node in self._dynamic:
            self._print_dynamic(self._dynamic[node])
        elif node.op != "call_function" or node in self._inside or self._feeds_layers_only(node):
            return
        elif node.target is DEQUANTIZE_PER_CHANNEL:
            self._print_weight(node)
        elif node.target is QUANTIZE:
            self._quantize(node, str(node.args[0]))
        elif node.target is DEQUANTIZE:
            self.assign(node.name, "aten::dequantize", self.integers(node))
        elif node.target in _PYTHON_FORMS:
            form = _PYTHON_FORMS[node.target]
            self._lines.append(f"{node.name} = {form.format(*map(self._value, node.args))}")
        else:
            self._call(node)

    def _print_dynamic(self, layer: DynamicLayer) -> None:
        packed = torch.ops.quantized.linear_prepack(quantized_weight(layer.weights), layer.weights.bias)
        # Layers that share weight and bias name the same attribute, and the file holds it once.
        _, weight, *bias = layer.compute.all_input_nodes
        shared = "_".join(node.name for node in (weight.all_input_nodes[0], *bias))
        attribute = self.attribute(f"{shared}_packed", packed)
        # False: no bit of the activations is kept free, as QNNPACK's integer sums are exact.
        self.assign(layer.name, "quantized::linear_dynamic", str(layer.source), attribute, "False")

    def _print_weight(self, node: Node) -> None:
        """Print a weight that is stored in integers and read by operators in float."""
        weights = weights_of(next(iter(node.users)), self._constants)
        assert weights is not None
        attribute = self.attribute(node.all_input_nodes[0].name, quantized_weight(weights))
        self.assign(node.name, "aten::dequantize", attribute)
        for reader in node.users:
            reason = Reason(
                "its weight is stored in 8 bits and dequantized at every run: PyTorch has no kernel for "
                "float activations and integer weights",
                change="build with the precision int8, or ship another format",
            )
            self.declined.append(decline(reader, reason))

    def assign(self, name: str, operator: str, *arguments: str) -> None:
        """Print a call and count it."""
        self.operators[operator] += 1
        namespace, _, function = operator.partition("::")
        self._lines.append(f"{name} = torch.ops.{namespace}.{function}({', '.join(arguments)})")

    def _call(self, node: Node) -> None:
        """Print a node's own call."""
        arguments = [self._value(argument) for argument in node.args]
        arguments += [f"{key}={self._value(value)}" for key, value in node.kwargs.items()]
        name = node.target._schema.name  # type: ignore[union-attr]
        self.assign(node.name, _OTHER_NAMES.get(str(node.target), name), *arguments)

    def attribute(self, name: str, value: Any) -> str:
        """Store a constant of the module and return how the source names it."""
        self.attributes[name] = value
        return f"self.{name}"

    def integers(self, node: Node) -> str:
        """Return how the source names the quint8 tensor that a dequantize node reads."""
        source = node.args[0]
        assert isinstance(source, Node)
        constant = self._constants.get(source.name)
        if constant is None:
            return source.name
        moved, parameters = (constant.short() + UNSIGNED).to(torch.uint8), parameters_of(node)
        quantized = torch._make_per_tensor_quantized_tensor(
            moved, parameters.scale, parameters.zero_point + UNSIGNED
        )
        return self.attribute(f"{source.name}_quint8", quantized)

    def _feeds_layers_only(self, node: Node) -> bool:
        is_dequantized = node.target in (DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
        return is_dequantized and bool(node.users) and all(user in self._inside for user in node.users)

    def _print_output(self, node: Node) -> None:
        outputs = node.args[0]
        assert isinstance(outputs, tuple | list)
        values = ", ".join(self._value(output) for output in outputs)
        self._lines.append(f"return {values}")

    def _value(self, argument: object) -> str:
        if isinstance(argument, Node):
            constant = self._constants.get(argument.name)
            if constant is not None and argument.op == "placeholder":
                return self.attribute(argument.name, constant)
            return argument.name
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self._value(item) for item in argument)}]"
        if isinstance(argument, torch.device):
            return f"torch.device({str(argument)!r})"
        if isinstance(argument, float) and not math.isfinite(argument):
            return f'float("{argument}")'
        return repr(argument)  # numbers, None, and torch's dtypes and layouts print as source

    def _quantize(self, node: Node, value: str) -> None:
        parameters = parameters_of(node)
        scale, zero_point = quint8(parameters)
        self.assign(node.name, "aten::quantize_per_tensor", value, scale, zero_point, "torch.quint8")

    def print_in_float(self, layer: QuantizedLayer) -> None:
        """Print a layer between dequantize and quantize."""
        reason = _FLOAT_REASONS.get(layer.kind, _NO_KERNEL)
        between = Reason(f"computes in float between dequantize and quantize: {reason}", change=reason.change)
        self.declined.append(decline(layer.compute, between))
        for node in layer.inputs:
            if self._feeds_layers_only(node):
                self.assign(node.name, "aten::dequantize", self.integers(node))
        for part in (layer.compute, layer.clamp):
            if part is not None:
                self._call(part)
        self._quantize(layer.output, str(layer.output.args[0]))


_OTHER_NAMES = {
    # Sizes are plain integers in TorchScript.
    "aten.sym_size.int": "aten::size",
    "aten.sym_size.default": "aten::size",
    "aten.sym_numel.default": "aten::numel",
    # Kernels may return other strides than the traced ones did: attention does for what was quantized.
    "aten.view.default": "aten::reshape",
}
_PYTHON_FORMS: dict[Any, str] = {
    operator.getitem: "{}[{}]",
    operator.add: "{} + {}",
    operator.sub: "{} - {}",
    operator.mul: "{} * {}",
    operator.floordiv: "{} // {}",
}
_KEEPS_THE_SCALE = Reason(
    "the quantized kernel gives the output its input's scale, which wastes most of its range",
    change="ship a format whose engine has a kernel for it: pte or onnx",
)
_IN_FLOAT_INSIDE = Reason(
    "the quantized kernel computes in float inside",
    change="use an activation that has an integer kernel: docs/quantization.md lists them",
)
_NOT_SHARED = Reason(
    "the quantized kernel computes what no other engine's does, to the step",
    change="resize by nearest neighbours, or pool to a size that divides the input's",
)
_OTHER_SCALE = Reason(
    "its kernel has a scale of its own, and what it is concatenated with another",
    change="concatenate it with values in the same bounds",
)
_FLOAT_REASONS = {
    "sigmoid": _OTHER_SCALE,
    "hardsigmoid": _OTHER_SCALE,
    "tanh": _OTHER_SCALE,
    "add": Reason(
        "QNNPACK's kernel takes no input whose scale is 256 times the output's, or less than 1/16384 of it",
        change="scale the layer before it, so that what is added has values of one size",
    ),
    "mean": _KEEPS_THE_SCALE,
    "gelu": _IN_FLOAT_INSIDE,
    "softmax": _IN_FLOAT_INSIDE,
    "matmul": _IN_FLOAT_INSIDE,
    "upsample_bilinear2d": _NOT_SHARED,
    "adaptive_avg_pool2d": _NOT_SHARED,
}
_NO_KERNEL = Reason(
    "PyTorch has no quantized kernel for it",
    change="use operators that it has kernels for, or ship a format whose engine has",
)
