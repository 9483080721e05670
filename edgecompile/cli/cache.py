"""`edgecompile cache`: what earlier builds keep for later ones."""

from __future__ import annotations

from collections import Counter

import click

from edgecompile.cli.options import json_option, traceback_option


@click.command("cache")
@click.argument("action", type=click.Choice(["show", "clear"]), default="show")
@json_option
@traceback_option
def command(action: str, as_json: bool) -> None:
    """Show or clear what earlier builds keep for later ones.

    `show` says where the cache is and what it holds; `clear` removes everything: the stages of builds, the
    native runners, and the engines' libraries for other machines.
    """
    if action == "clear":
        _clear(as_json)
    else:
        _show(as_json)


def _show(as_json: bool) -> None:
    from edgecompile.cache import cache_folder
    from edgecompile.cache_upkeep import items, limit_bytes
    from edgecompile.cli.output import print_json, print_table

    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in items():
        counts[item.kind] += 1
        sizes[item.kind] += item.size_bytes
    if as_json:
        kinds = {kind: {"count": count, "size_bytes": sizes[kind]} for kind, count in counts.items()}
        print_json({"folder": str(cache_folder()), "limit_bytes": limit_bytes(), "kinds": kinds})
        return
    rows = [(kind, str(count), f"{sizes[kind] / 1e6:.1f} MB") for kind, count in sorted(counts.items())]
    rows.append(("all", str(counts.total()), f"{sizes.total() / 1e6:.1f} MB"))
    print_table(("what", "count", "size"), rows)
    click.echo(f"\n{cache_folder()}, at most {limit_bytes() / 1e9:g} GB: the least recently used goes first")


def _clear(as_json: bool) -> None:
    from edgecompile.cache import cache_folder
    from edgecompile.cache_upkeep import clear
    from edgecompile.cli.output import print_json

    removed = clear()
    if as_json:
        print_json({"folder": str(cache_folder()), "removed_bytes": removed})
        return
    click.echo(f"removed {removed / 1e6:.1f} MB from {cache_folder()}")
