"""`edgecompile bench`: times, operators and instructions of artifacts, where they will run."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import click

from edgecompile.cli.options import json_option, place_options, public_key_option, traceback_option
from edgecompile.errors import UsageError

_TRACE = "edgecompile-trace.json"


def _cpu_numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        return ()
    if not re.fullmatch(r"\d+(,\d+)*", value):
        raise click.BadParameter(f"{value!r} is no list of CPU numbers, as in 4,5,6,7")
    return tuple(map(int, value.split(",")))


@click.command("bench")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@place_options
@click.option("--format", "formats", multiple=True, help="Only artifacts of this format. Repeatable.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Of the engine.")
@click.option("--cpus", metavar="N,N...", callback=_cpu_numbers, help="The CPUs that it may run on.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="How often each artifact is loaded and run. Default: 10, with --instructions 3.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 600),
    default=0.5,
    show_default=True,
    help="How long an artifact runs in a round.",
)
@click.option("--per-op", is_flag=True, help="Also show the time of the operators, and write a trace.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_TRACE,
    show_default=True,
    help="Where --per-op writes the Chrome/Perfetto trace.",
)
@click.option("--instructions", is_flag=True, help="Count executed instructions instead, on the emulator.")
@public_key_option()
@json_option
@traceback_option
def command(
    *,
    bundles: tuple[Path, ...],
    place: str | None,
    device: str | None,
    cpu: str | None,
    formats: tuple[str, ...],
    threads: int,
    cpus: tuple[int, ...],
    rounds: int | None,
    seconds: float,
    per_op: bool,
    trace: Path,
    instructions: bool,
    public_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure the artifacts of each BUNDLE in turns; ratios are to the first one."""
    place = place or "host"
    _check(place, threads=threads, cpus=cpus, per_op=per_op, instructions=instructions)
    from edgecompile.bench import bench
    from edgecompile.bench_instructions import bench_instructions
    from edgecompile.bench_operators import bench_operators
    from edgecompile.cli.output import print_json
    from edgecompile.cli.show_progress import shown_progress
    from edgecompile.connect import connect, counting_emulator
    from edgecompile.contender import EngineOptions, find_contenders
    from edgecompile.operator_times import chrome_trace
    from edgecompile.text_file import write_text

    with shown_progress() as progress, ExitStack() as stack:
        if instructions:
            emulator = stack.enter_context(counting_emulator(device=device, cpu=cpu))
            contenders, notes = find_contenders(bundles, formats, emulator, progress, public_keys)
            counts = bench_instructions(contenders, emulator, repeats=rounds or 3, progress=progress)
            document, text = counts.to_dict(), counts.text()
        else:
            connection = stack.enter_context(connect(place, device=device, cpu=cpu))
            contenders, notes = find_contenders(bundles, formats, connection, progress, public_keys)
            engine = EngineOptions(threads=threads, cpus=cpus)
            times = bench(
                contenders, connection, engine, rounds=rounds or 10, seconds=seconds, progress=progress
            )
            document, text = times.to_dict(), times.text()
            if per_op:
                operators = bench_operators(contenders, connection, engine, progress)
                write_text(trace, json.dumps(chrome_trace(operators.traces)) + "\n")
                document |= {"operators": operators.to_dict(), "trace": str(trace)}
                text += f"\n{operators.text()}\n  {trace} opens in https://ui.perfetto.dev\n"
                notes += operators.notes
    if as_json:
        print_json({**document, "notes": list(notes)})
    else:
        click.echo("\n".join([text, *(f"  {note}" for note in notes)]))


def _check(place: str, *, threads: int, cpus: tuple[int, ...], per_op: bool, instructions: bool) -> None:
    if instructions and place != "emulator":
        raise UsageError(
            f"--instructions cannot count on '{place}'", hint="only an emulator counts: add `--on emulator`"
        )
    if instructions and (per_op or threads != 1 or cpus):
        raise UsageError(
            "--instructions counts one thread on one core, without --per-op, --threads or --cpus"
        )
    if place == "emulator" and not instructions:
        raise UsageError(
            "times on an emulator say nothing about the real core",
            hint="add `--instructions` to count what the core executes",
        )
