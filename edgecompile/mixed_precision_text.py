"""What stays in float so that a budget holds, as text for reports."""

from __future__ import annotations

from rich.text import Text

from edgecompile.budget import MixedPrecision
from edgecompile.text_table import render, table


def mixed_precision_text(mixed: MixedPrecision) -> str:
    """Return the layers that stay in float, and what each measured program reached."""
    trials = table("layers in float", "reached", "the budget")
    for trial in mixed.trials:
        verdict = "holds" if trial.holds else "does not hold"
        trials.add_row(str(len(trial.layers)), trial.text(), verdict)
    parts = [f"budget: {mixed.budget}\n", render(trials)]
    if not mixed.layers:
        return "\n".join([*parts, "no layer has to stay in float\n"])
    share = sum(layer.mac_share for layer in mixed.layers)
    kept = table("stays in float", "operator", "where", "of all multiply-accumulates")
    for layer in mixed.layers:
        kept.add_row(Text(layer.name), layer.kind, Text(layer.where), f"{layer.mac_share:.1%}")
    count = f"{len(mixed.layers)} of {mixed.quantizable} layers stay in float, with {share:.1%} of the work\n"
    return "\n".join([*parts, count, render(kept)])
