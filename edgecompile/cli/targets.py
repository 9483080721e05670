"""`edgecompile targets`: what one can compile for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgecompile.cli.options import json_option, traceback_option

if TYPE_CHECKING:
    from edgecompile.target import Target


@click.command("targets")
@click.argument("name", required=False)
@json_option
@traceback_option
def command(name: str | None, as_json: bool) -> None:
    """List the targets, or show all settings of the target NAME."""
    from edgecompile.cli.output import print_json, print_table
    from edgecompile.target import load_target, target_names

    if name is not None:
        target = load_target(name)
        if as_json:
            print_json(target.to_dict())
        else:
            _print_target(target)
        return
    targets = [load_target(known) for known in target_names()]
    if as_json:
        print_json({"targets": [target.to_dict() for target in targets]})
        return
    rows = [
        (
            target.name,
            target.description,
            ", ".join(target.formats),
            ", ".join(settings.emitter for settings in target.emit.values()),
        )
        for target in targets
    ]
    print_table(("target", "description", "formats", "emitters"), rows)


def _print_target(target: Target) -> None:
    from edgecompile.cli.output import print_table
    from edgecompile.setting import show_value
    from edgecompile.target import target_settings

    click.echo(f"{target.name}: {target.description}\n")
    passes = [(str(step), entry.name, entry.reason) for step, entry in enumerate(target.passes, 1)]
    print_table(("", "pass", "reason"), passes)
    settings = [setting for setting in target_settings(target.name) if "." in setting.name]
    rows = [(setting.name, show_value(setting.value), setting.origin) for setting in settings]
    click.echo()
    print_table(("setting", "value", "origin"), rows)
