"""`edgecompile doctor`: is everything here that edgecompile needs?"""

from __future__ import annotations

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.errors import ToolMissingError


@click.command("doctor")
@json_option
@traceback_option
def command(as_json: bool) -> None:
    """Check Python, the libraries and the tools, and say what works without what is missing."""
    from dataclasses import asdict

    from edgecompile.cli.output import print_json, print_table
    from edgecompile.doctor import examine

    checks = examine()
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        marks = {True: "ok", False: "no"}
        rows = [(marks[check.ok], check.name, check.found, check.needed, check.note) for check in checks]
        print_table(("", "what", "found", "needed", "without it"), rows)
    missing = [check for check in checks if check.essential and not check.ok]
    if missing:
        raise ToolMissingError(
            f"`edgecompile build` needs {', '.join(check.name for check in missing)}",
            found="\n".join(f"{check.name} {check.found}, needed {check.needed}" for check in missing),
            hint="`pip install --upgrade edgecompile` installs the libraries that it needs",
        )
