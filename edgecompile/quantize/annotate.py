"""What is quantized, and how: one rule for each operator that has an integer kernel in the engines.

The stock XNNPACK quantizer quantizes a convolution's output over its full range *before* relu6, and
leaves narrow what the engines can do; here a layer with its padding and its activation is one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from edgecompile.program import Reason
from edgecompile.quantize.layers import BOUNDED, CLAMPS, WEIGHTED
from edgecompile.quantize.observers import ActivationBounds, activation_observer, weight_observer
from edgecompile.quantize.share_directly import share_directly
from edgecompile.target import QuantizationSettings

aten = torch.ops.aten

_KEY = "quantization_annotation"

_BINARY = (aten.add.Tensor, aten.mul.Tensor)
# Operators that move values without computing: their output has their input's quantization parameters.
_MOVES = (
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest2d.vec,
    aten.flip.default,
)
# The integer kernels of these compare, average or clamp values of one scale.
_COMPARISONS = (aten.max_pool2d.default, aten.avg_pool2d.default, *CLAMPS)
# These have the quantization parameters of what they read.
_SHARING = frozenset((*_MOVES, *_COMPARISONS, aten.cat.default))
_ACTIVATIONS = (aten.hardswish.default, aten.leaky_relu.default, aten.elu.default)


class EdgeQuantizer(Quantizer):  # type: ignore[misc]  # torchao is not typed
    """Annotates a graph for static INT8: per-tensor activations, affine or symmetric; symmetric weights.

    Attributes:
        declined: After `annotate`, the names of the nodes that stay in float, each with the reason.
    """

    def __init__(self, settings: QuantizationSettings, kept: Collection[str] = ()) -> None:
        super().__init__()
        self._kept = frozenset(kept)
        self.declined: dict[str, str] = {}
        self._activation = _activation_spec(settings)
        self._weight = _weight_spec(settings)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every operator that has a rule; note the others as declined."""
        self.declined = {}
        for node in model.graph.nodes:
            if node.op != "call_function" or _KEY in node.meta:
                continue
            rule = _RULES.get(node.target)
            if node.name in self._kept:
                reason: str | None = Reason(
                    "the budget on quality does not hold with it in INT8", change="ask for a smaller budget"
                )
            elif rule is None:
                reason = Reason(
                    "the engines share no integer kernel for it",
                    change="use operators that have one: docs/quantization.md lists them",
                )
            elif node.meta["val"].dtype != torch.float32:
                reason = Reason("it does not compute in float32", change="compute in float32 where it can be")
            else:
                reason = rule(self, node)
            if reason:
                self.declined[node.name] = reason
        share_directly(model.graph, _KEY)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: the rules annotate only what every engine accepts."""

    def layer(self, node: Node) -> str | None:
        """Convolution or linear, with zero padding before it and a clamp after it: one unit."""
        source, weight = node.args[0], node.args[1]
        assert isinstance(source, Node)
        if not isinstance(weight, Node) or weight.op != "get_attr":
            return Reason("its weight is computed, not constant", change="store it as a parameter")
        if len(node.args) > 4 and isinstance(node.args[4], str):
            return Reason("its padding is a word, not numbers", change="give it as numbers")
        inputs: dict[Node, Any] = {weight: self._weight}
        if is_foldable_padding(source):
            padded = source.args[0]
            assert isinstance(padded, Node)
            source.meta[_KEY] = QuantizationAnnotation(
                input_qspec_map={padded: self._activation}, _annotated=True
            )
        else:
            inputs[source] = self._activation
        self._annotate_unit(node, inputs)
        return None

    def binary(self, node: Node) -> str | None:
        """Addition or multiplication of two tensors, with a clamp after it; one may be a constant."""
        left, right = node.args[0], node.args[1]
        if not isinstance(left, Node) or not isinstance(right, Node):
            return Reason(
                "one operand is a number", change="fold the number into the weights of a layer beside it"
            )
        if node.target is aten.mul.Tensor and any(map(_is_channel_factor, (left, right))):
            return Reason(
                "one operand is a factor for each channel",
                change="fold it into the weight of a layer beside it",
            )
        if node.kwargs.get("alpha", 1) != 1:
            return Reason("it scales an operand (alpha)", change="scale the weights of the layer before it")
        if not all(other.meta["val"].dtype == torch.float32 for other in (left, right)):
            return Reason("it does not compute in float32", change="compute in float32")
        self._annotate_unit(node, dict.fromkeys((left, right), self._activation))
        return None

    def mean(self, node: Node) -> str | None:
        """Mean over height and width; its output has a range of its own."""
        source, axes = node.args[0], node.args[1]
        assert isinstance(source, Node)
        keepdim = len(node.args) > 2 and node.args[2]
        if source.meta["val"].dim() != 4 or list(axes) != [2, 3] or not keepdim:  # type: ignore[arg-type]
            return Reason(
                "it is no mean over height and width that keeps them",
                change="average over the last two axes of a value of four: mean([2, 3], keepdim=True)",
            )
        self._annotate_unit(node, {source: self._activation})
        return None

    def bounded(self, node: Node) -> str | None:
        """An activation with values in fixed bounds: quantized where its input is.

        It has the scale of its bounds, unless it shares one with values that have others.
        """
        source = node.args[0]
        assert isinstance(source, Node)
        if not _is_quantized(source):
            return Reason("its input is in float", change="see what its input's row says")
        given = BOUNDED[node.target]
        is_alone = _bounds_of(_sharing_with(node)) == {given}
        node.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map={source: self._activation},
            output_qspec=_bounded_spec(*given) if is_alone else self._activation,
            _annotated=True,
        )
        return None

    def activation(self, node: Node) -> str | None:
        """An activation that is no clamp: quantized where its input is, with a range of its own."""
        source = node.args[0]
        assert isinstance(source, Node)
        if not _is_quantized(source):
            return Reason("its input is in float", change="see what its input's row says")
        self._annotate_unit(node, {source: self._activation})
        return None

    def move(self, node: Node) -> str | None:
        """A view, permute, slice or padding: quantized where its input is."""
        source = node.args[0]
        assert isinstance(source, Node)
        if node.target is aten.constant_pad_nd.default and is_foldable_padding(node):
            return None  # The rule of the convolution after it has the say.
        if not _is_quantized(source):
            return Reason("its input is in float", change="see what its input's row says")
        self._share(node, source)
        return None

    def comparison(self, node: Node) -> str | None:
        """Pooling, or a clamp that is not part of a unit."""
        source = node.args[0]
        assert isinstance(source, Node)
        if not _is_quantized(source) and (
            node.target is aten.avg_pool2d.default or _comes_from_float(source)
        ):
            return Reason("its input is in float", change="see what its input's row says")
        self._share(node, source)
        return None

    def concatenation(self, node: Node) -> str | None:
        """Concatenation: one set of quantization parameters for all inputs and the output."""
        if _would_lose_bounded(node):
            return Reason(
                "it joins values of fixed bounds with others, whose scale would lose them",
                change="return them as outputs of their own",
            )
        sources = node.args[0]
        assert isinstance(sources, list | tuple)
        first = sources[0]
        shared = SharedQuantizationSpec((first, node))
        # The one that the others share comes before them: nothing else may have made its observer.
        inputs = {first: self._activation} | {source: shared for source in sources[1:] if source is not first}
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=shared, _annotated=True)
        return None

    def _annotate_unit(self, node: Node, inputs: dict[Node, Any]) -> None:
        """Annotate a computing node; where a clamp follows, the clamp's output is the unit's."""
        users = list(node.users)
        clamp = users[0] if len(users) == 1 and users[0].target in CLAMPS else None
        output = None if clamp is not None else self._activation
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)
        if clamp is not None:
            clamp.meta[_KEY] = QuantizationAnnotation(output_qspec=self._activation, _annotated=True)

    def _share(self, node: Node, source: Node) -> None:
        node.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map={source: self._activation},
            output_qspec=SharedQuantizationSpec((source, node)),
            _annotated=True,
        )


def _is_channel_factor(node: Node) -> bool:
    """Tell whether a node is a constant that changes along one axis at most.

    A product with it gives channels that need scales of their own.
    """
    return node.op == "get_attr" and sum(size > 1 for size in node.meta["val"].shape) <= 1


def is_foldable_padding(node: object) -> bool:
    """Tell whether a node pads with zeros for convolutions alone, so that it can be part of their unit."""
    if not isinstance(node, Node) or node.target is not aten.constant_pad_nd.default:
        return False
    pads, value = node.args[1], node.args[2] if len(node.args) > 2 else 0.0
    if value != 0 or not isinstance(pads, list | tuple) or len(pads) != 4:
        return False
    if not all(isinstance(pad, int) and pad >= 0 for pad in pads):
        return False  # a dynamic size, or cropping
    only_user = next(iter(node.users)) if len(node.users) == 1 else None
    return only_user is not None and only_user.target is aten.conv2d.default


def _sharing_with(node: Node) -> set[Node]:
    """Return the nodes whose values have one scale with a node's, itself too."""

    def near(item: Node) -> list[Node]:
        readers = [user for user in item.users if _shares(user) and item in _moved(user)]
        return readers + (_moved(item) if _shares(item) else [])

    return _reached(node, near)


def _shares(node: Node) -> bool:
    is_concat = node.target is aten.cat.default
    return _moves(node) and not (is_concat and _would_lose_bounded(node))


def _would_lose_bounded(concat: Node) -> bool:
    """Tell whether values of several bounds meet in a concatenation that nothing reads in integers.

    A probability beside the size of a box would be a step or two, and nothing would be the faster for it.
    """
    bounds = _bounds_of(_reached(concat, _moved))
    readers = _reached(concat, lambda item: item.users if _moves(item) else [])
    return len(bounds) > 1 and not any(map(_computes_in_integers, readers))


def _comes_from_float(node: Node) -> bool:
    """Tell whether a value is moved from a concatenation that stays in float."""
    found = _reached(node, _moved)
    return any(item.target is aten.cat.default and _would_lose_bounded(item) for item in found)


def _computes_in_integers(node: Node) -> bool:
    if node.target not in _RULES or _moves(node):
        return False
    return node.target not in _BINARY or all(isinstance(item, Node) for item in node.args[:2])


def _moves(node: Node) -> bool:
    return node.target in _SHARING


def _moved(node: Node) -> list[Node]:
    """Return the values that a node moves or compares."""
    if not _moves(node):
        return []
    given = node.args[0] if node.target is aten.cat.default else [node.args[0]]
    return [item for item in cast("Sequence[object]", given) if isinstance(item, Node)]


def _reached(start: Node, near: Callable[[Node], Iterable[Node]]) -> set[Node]:
    found, left = {start}, [start]
    while left:
        new = set(near(left.pop())) - found
        found |= new
        left += new
    return found


def _bounds_of(nodes: Iterable[Node]) -> set[tuple[float, int] | None]:
    """Return the scales and zero points that the computing ones among nodes have; None for one of its own."""
    return {BOUNDED.get(node.target) for node in nodes if not _moves(node)}


def _is_quantized(node: Node) -> bool:
    annotation = node.meta.get(_KEY)
    return annotation is not None and annotation.output_qspec is not None


def _activation_spec(settings: QuantizationSettings) -> QuantizationSpec:
    affine = settings.activation_symmetry == "affine"
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine if affine else torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=activation_observer(settings),
    )


def _bounded_spec(scale: float, zero_point: int) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=ActivationBounds.with_args(scale=scale, zero_point=zero_point),
    )


def _weight_spec(settings: QuantizationSettings) -> QuantizationSpec:
    # Without the least integer: two products with -128 overflow in kernels that add them in 16 bits.
    limit = settings.weight_limit
    per_channel = settings.weight_granularity == "per-channel"
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-limit,
        quant_max=limit,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if per_channel else None,
        observer_or_fake_quant_ctr=weight_observer(settings),
    )


_Rule = Callable[[EdgeQuantizer, Node], str | None]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(WEIGHTED, EdgeQuantizer.layer),
    **dict.fromkeys(_BINARY, EdgeQuantizer.binary),
    **dict.fromkeys(_MOVES, EdgeQuantizer.move),
    **dict.fromkeys(_COMPARISONS, EdgeQuantizer.comparison),
    **dict.fromkeys(BOUNDED, EdgeQuantizer.bounded),
    **dict.fromkeys(_ACTIVATIONS, EdgeQuantizer.activation),
    aten.mean.dim: EdgeQuantizer.mean,
    aten.cat.default: EdgeQuantizer.concatenation,
}


def operators_with_rules() -> frozenset[Any]:
    """Return the operators that are quantized where their inputs, arguments and readers allow it."""
    return frozenset(_RULES)
