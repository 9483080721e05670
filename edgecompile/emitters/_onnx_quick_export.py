"""Lets `torch.onnx.export` do only what a program of ours needs.

The exporter traces the whole program anew to decompose operators, whether or not there is one to decompose,
and its optimizer tries each of some sixty patterns at each node; for those with two outputs it makes an
index of the whole graph each time. On a MobileNetV2 that is most of its time. What is left out here changes
nothing but names: operators and constants are the same (a test compares). There is no choice of this in the
exporter's interface, so its functions are replaced for the time of an export, and only in the versions that
this was written for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript.rewriter import _rewrite_rule
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.onnx._internal.exporter import _decomp, _fx_passes

from edgecompile.emitters._known_versions import is_known
from edgecompile.graph_edit import ProgramEditor


@contextmanager
def quick_export() -> Iterator[None]:
    """Leave out the exporter's decomposition and searches where they find nothing."""
    if not is_known("torch", "onnxscript"):
        yield
        return
    decompose: Any = _fx_passes.decompose_with_registry
    try_rewrite: Any = _rewrite_rule.RewriteRule.try_rewrite

    def decompose_where_needed(exported: ExportedProgram, registry: Any) -> ExportedProgram:
        known = set(_decomp.get_onnx_implemented_overloads(registry))
        if all(_is_translated(node, known) for node in exported.graph.nodes):
            return ProgramEditor(exported).finish()  # a copy, for what follows writes to it
        return decompose(exported, registry)  # type: ignore[no-any-return]

    def try_where_it_fits(rule: Any, model: Any, graph: Any, node: Any, **keywords: Any) -> Any:
        wanted = rule._target_pattern.output_nodes[0].op_identifier()
        if wanted is not None and wanted != node.op_identifier():
            return None
        return try_rewrite(rule, model, graph, node, **keywords)

    fx_passes: Any = _fx_passes
    rule_class: Any = _rewrite_rule.RewriteRule
    fx_passes.decompose_with_registry = decompose_where_needed
    rule_class.try_rewrite = try_where_it_fits
    try:
        yield
    finally:
        fx_passes.decompose_with_registry = decompose
        rule_class.try_rewrite = try_rewrite


def _is_translated(node: torch.fx.Node, known: set[Any]) -> bool:
    """Tell whether a node has an ONNX form as it is."""
    if node.op != "call_function":
        return True
    return isinstance(node.target, OpOverload) and node.target in known
