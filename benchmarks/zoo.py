"""What becomes of the zoo: builds many networks in INT8 for every format, and says what came of each.

    python benchmarks/zoo.py --output FOLDER [--jobs 2] [NAME ...]
    python benchmarks/zoo.py --output FOLDER --table > docs/zoo-table.md
    python benchmarks/zoo.py --output FOLDER --summary > benchmarks/zoo_results.jsonl

Builds the networks of `zoo_networks.py`, or those named. FOLDER/zoo.jsonl gets one line for each
network and format; what has a line there is not built again, so an interrupted run goes on where it was.
`make zoo` installs timm and transformers, and runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from zoo_networks import listed
from zoo_table import FORMATS, decibels, summary, table

HERE = Path(__file__).parent


def main() -> None:
    """Build what has no line yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one network")
    parser.add_argument("--plain", action="store_true", help="rounds to the nearest and corrects nothing")
    parser.add_argument("--keep", action="store_true", help="keep the bundles")
    parser.add_argument("--table", action="store_true", help="print what is known as Markdown")
    parser.add_argument("--summary", action="store_true", help="print what is known as lines of JSON")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    lines = options.output / "zoo.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    if options.table or options.summary:
        print(table(known) if options.table else summary(known))
        return
    built = {line["model"] for line in known}
    names = [name for name in options.names or listed() if name not in built]
    with ThreadPoolExecutor(options.jobs) as workers:
        builds = [workers.submit(_in_a_process, name, options) for name in names]
        for done in as_completed(builds):
            found = done.result()
            with lines.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in found)
            for line in found:
                print(_described(line), flush=True)


def _described(line: dict[str, Any]) -> str:
    if line["status"]:
        return f"{line['model']} {line['format']}: {line['error']}"
    missed = "; ".join(line["missed"])
    calls = f"{line['delegate_calls']} calls, " if line["format"] == "pte" else ""
    outside = sum(line["outside"].values())
    quality = f"{decibels(line['sqnr_db'])} dB ({decibels(line['reference_sqnr_db'])})"
    what = f"{calls}{outside} outside, {quality}, {line['seconds']:.0f} s"
    return f"{line['model']} {line['format']}: {what} {missed}"


def _in_a_process(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a network's lines, built in a process of its own: what crashes takes nothing else with it."""
    folder = options.output / name
    command = [sys.executable, str(HERE / "zoo_build.py"), name, str(folder)]
    command += ["--plain"] if options.plain else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.timeout, check=False
        )
        said = done.stdout.splitlines()
        is_found = said and done.returncode == 0
        found = json.loads(said[-1]) if is_found else _lost(name, 70, _end_of(done))
    except subprocess.TimeoutExpired:
        found = _lost(name, 124, f"took more than {options.timeout:.0f} s")
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for line in found:
        line["seconds"] = round(time.monotonic() - start, 1)
    return found


def _end_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process that gave no result said, and what ended it."""
    if done.returncode >= 0:
        return done.stderr
    return f"{done.stderr}\nended by {signal.Signals(-done.returncode).name}"


def _lost(name: str, status: int, said: str) -> list[dict[str, Any]]:
    error = next(iter(said.strip().splitlines()[-1:]), "it printed nothing")
    return [
        {"model": name, "format": item, "status": status, "error": error, "log": said[-4000:]}
        for item in FORMATS
    ]


if __name__ == "__main__":
    main()
