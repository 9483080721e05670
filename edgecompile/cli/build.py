"""`edgecompile build`: a model in, a bundle for each target out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edgecompile.cli.options import DynamicAxis, KeyValue, json_option, traceback_option
from edgecompile.errors import UsageError
from edgecompile.program import Precision

if TYPE_CHECKING:
    from edgecompile.settings import BuildSettings


@click.command("build")
@click.argument("model")
@click.option("--target", multiple=True, metavar="NAME", help="What to compile for; may be repeated.")
@click.option("--all-targets", is_flag=True, help="Compile for every target.")
@click.option("--device", metavar="NAME", help="What the artifacts must fit; it says the target.")
@click.option("--format", multiple=True, metavar="NAME", help="Emit only this format; may be repeated.")
@click.option("--calibration", metavar="DATA", help="Typical inputs, to choose the quantization ranges.")
@click.option("--evaluation", metavar="DATA", help="Other inputs, to measure quality on.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Default: int8.")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="RATIO",
    help="Remove channels until this share (0 to 1) of what they can save is gone.",
)
@click.option(
    "--sparsity",
    metavar="SHARE|N:M",
    help="Zero this share (0 to 1) of the weights, or all but N of M neighbours; shapes stay.",
)
@click.option(
    "--pruning",
    type=KeyValue(),
    multiple=True,
    help="Instead of what the targets' tables of that name say; may be repeated.",
)
@click.option(
    "--quantization",
    type=KeyValue(),
    multiple=True,
    help="Instead of what the targets' tables of that name say; may be repeated.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 100),
    metavar="PCT",
    help="Keep layers in float until top-1 on the labelled samples is so few points below float's.",
)
@click.option(
    "--min-sqnr-db",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Keep layers in float until the outputs have this SQNR against float's.",
)
@click.option(
    "--sensitivity/--no-sensitivity", default=None, help="Measure what the rounding of each layer costs."
)
@click.option(
    "--dynamic",
    type=DynamicAxis(),
    multiple=True,
    help="Take any size from MIN to MAX along an axis of an input (tokens:1=length:1..128), or multiples of "
    "STEP alone (image:2=height:64..512:32); may be repeated, and axes of one NAME are equally long.",
)
@click.option("--dynamic-batch/--no-dynamic-batch", default=None, help="Take any batch size.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML with these options as keys."
)
@click.option("--output", metavar="DIR", help="Gets a folder for each target. Default: build.")
@click.option("--cache/--no-cache", default=None, help="Use and keep results of stages. Default: on.")
@click.option(
    "--jobs",
    type=click.IntRange(min=0),
    metavar="N",
    help="Processes that lower at once. Default: as fits.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Print the settings, and predict what is quantized and delegated.",
)
@json_option
@traceback_option
def command(
    model: str, config: Path | None, plan: bool, as_json: bool, all_targets: bool, **flags: Any
) -> None:
    """Compile MODEL for each target.

    MODEL is file.py:function, package.module:function or file.pt2. DATA is a .npz file, a folder of
    .npy files or images, or file.py:function.
    """
    from edgecompile.settings import Options, resolve

    # click gives () for a repeatable option that was not used; "not said" is None.
    said = {name: None if value == () else value for name, value in flags.items()}
    for table in ("pruning", "quantization"):
        said[table] = dict(flags[table])
    said["dynamic"] = _once_each(flags["dynamic"]) or None
    if all_targets:
        said["target"] = _all_targets(said)
    settings = resolve(model, Options(**said), config)
    if plan:
        from edgecompile.compile import plan as planned_stages

        _print_plan(settings, planned_stages(settings), as_json)
        return
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.compile import build

    with shown_progress() as progress:
        bundles = build(settings, progress)
    if as_json:
        print_json({"bundles": [bundle.report_dict() for bundle in bundles]})
        return
    for bundle in bundles:
        click.echo(bundle.report_text())


def _once_each(axes: Sequence[tuple[str, str]]) -> dict[str, str]:
    for index, (axis, _) in enumerate(axes):
        if axis in dict(axes[:index]):
            raise UsageError(f"--dynamic says {axis} twice", hint="leave one of them out")
    return dict(axes)


def _all_targets(said: dict[str, Any]) -> tuple[str, ...]:
    from edgecompile.target import target_names

    for other in ("target", "device"):
        if said[other]:
            raise UsageError(f"--all-targets leaves nothing for --{other} to say", hint="use one of them")
    return target_names()


def _print_plan(settings: BuildSettings, stages: list[tuple[str, bool]], as_json: bool) -> None:
    from dataclasses import asdict

    from edgecompile.cli.output import print_json, print_table, terminal_width
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.setting import show_value

    if not as_json:  # what follows takes seconds, or fails
        rows = [(setting.name, show_value(setting.value), setting.origin) for setting in settings.plan()]
        print_table(("setting", "value", "origin"), rows)
        if stages:
            click.echo()
            print_table(
                ("stage", "from the cache"),
                [(name, "reused" if there else "runs") for name, there in stages],
            )
        click.echo()
    with shown_progress() as progress:
        from edgecompile.foresee import foresee

        coverage = foresee(settings, progress)
    if as_json:
        reuse = [{"stage": stage, "reused": reused} for stage, reused in stages]
        plan = [asdict(setting) for setting in settings.plan()]
        print_json({"plan": plan, "stages": reuse, "coverage": [item.to_dict() for item in coverage]})
        return
    for item in coverage:
        click.echo(item.text(terminal_width()))
