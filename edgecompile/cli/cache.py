"""`edgecompile cache`: what earlier builds keep for later ones."""

from __future__ import annotations

import click

from edgecompile.cli.options import json_option, traceback_option


@click.group("cache")
@traceback_option
def command() -> None:
    """Show or clear what earlier builds keep for later ones."""


@command.command("show")
@json_option
@traceback_option
def show(as_json: bool) -> None:
    """Show where the cache is, and what it holds."""
    from collections import Counter

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


@command.command("clear")
@traceback_option
def clear() -> None:
    """Remove everything: stages, runners, and the engines' libraries."""
    from edgecompile.cache import cache_folder
    from edgecompile.cache_upkeep import clear as clear_cache

    click.echo(f"removed {clear_cache() / 1e6:.1f} MB from {cache_folder()}")
