"""The documentation names everything that a user can meet, and its commands parse."""

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from edgecompile import artifact, catalogue, errors, target
from edgecompile.cli.main import COMMANDS, group

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
ELSEWHERE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
TEXTS = PAGES | {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ELSEWHERE}
CONTEXT = click.Context(group, info_name="edgecompile")


def _error_classes(base=errors.EdgecompileError):
    for found in base.__subclasses__():
        if found.__module__ == errors.__name__:
            yield from [found] if hasattr(found, "code") else []
            yield from _error_classes(found)


def _command(name):
    return group.get_command(CONTEXT, name)


def _options(name):
    params = _command(name).params if name else group.params
    return {option for item in params for option in (*item.opts, *item.secondary_opts) if option[0] == "-"}


def _code_blocks(text):
    """Yield the fenced and the indented blocks."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"(?:^(?: {4}|\t).*\n)+", text, re.MULTILINE)


def shown_commands(text):
    """Return the command lines of a page's code blocks, as words without the program's name."""
    found = []
    for block in _code_blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"\s*(?:\$ )?edgecompile (.*)", line)
            if command is None:
                continue
            words = shlex.split(command[1], comments=True)
            ends = [index for index, word in enumerate(words) if re.match(r"[|<>;&]|\d>", word)]
            found.append(words[: min(ends, default=len(words))])
    return found


def inline_commands(text):
    """Return the commands that stand in a sentence."""
    return [words.split() for words in re.findall(r"`edgecompile ([^`]+)`", text)]


SHOWN = [(page, words) for page, text in TEXTS.items() for words in shown_commands(text)]
INLINE = [(page, words) for page, text in TEXTS.items() for words in inline_commands(text)]


def test_there_is_something_to_test():
    assert len(SHOWN) >= 5
    assert len(INLINE) >= 10


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=lambda value: str(value)[:60])
def test_a_shown_command_parses(page, words):
    name, *arguments = words
    assert name in COMMANDS or name.startswith("-"), page
    command, arguments = (_command(name), arguments) if name in COMMANDS else (group, words)
    try:
        command.make_context(name, list(arguments), parent=CONTEXT)
    except click.exceptions.Exit:
        pass  # --help and --version
    except click.ClickException as error:
        pytest.fail(f"{page}: edgecompile {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize(("page", "words"), INLINE, ids=lambda value: str(value)[:60])
def test_a_command_in_a_sentence_exists(page, words):
    name = words[0] if not words[0].startswith("-") else None
    assert name is None or name in COMMANDS, page
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= _options(name) | {"--help", "-h"}, page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_beside_its_command(name):
    pages = [text for text in PAGES.values() if f"edgecompile {name}" in text]
    assert pages, "no page shows the command"
    missing = {option for option in _options(name) if not any(option in text for text in pages)}
    assert not missing


@pytest.mark.parametrize("name", catalogue.names("edgecompile.passes"))
def test_every_pass_has_a_section(name):
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGES["passes.md"], re.MULTILINE | re.DOTALL)
    assert section is not None
    for word in ("Before:", "After:"):
        assert word in section[1]
    assert "Declines when" in section[1] or "Leaves" in section[1]


def test_passes_stand_in_the_order_of_the_defaults():
    sections = re.findall(r"^## ([a-z]+(?:-[a-z]+)+)$", PAGES["passes.md"], re.MULTILINE)
    assert sections == [entry.name for entry in target.load_target("android-arm64").passes]


@pytest.mark.parametrize("name", target.target_names())
def test_every_target_is_listed(name):
    description = target.load_target(name).description
    assert re.search(rf"^{name} +{re.escape(description)} ", PAGES["targets.md"], re.MULTILINE)


@pytest.mark.parametrize(
    "schema",
    [found for found in vars(target).values() if str(found).startswith("<class 'edgecompile.target.")],
)
def test_every_key_of_a_target_is_explained(schema):
    named = re.findall(r"`(?:\w+(?:\[\])?\.)?(\w+)`", PAGES["targets.md"])
    table_names = {
        "name",
        "pruning",
        "quantization",
        "emit",
        "validation",
    }  # the stem, and tables of their own
    assert {item.name for item in dataclasses.fields(schema)} - table_names <= set(named)


@pytest.mark.parametrize(
    "schema", [artifact.Manifest, artifact.TensorEntry, artifact.Artifact, artifact.SettingEntry]
)
def test_every_field_of_the_manifest_is_explained(schema):
    rows = re.findall(r"^\| (`.*?) \|", PAGES["bundle.md"], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {item.name for item in dataclasses.fields(schema)} <= named


def test_every_error_code_is_listed_with_its_exit_status():
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| .+ \|$", PAGES["errors.md"], re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == {found.code: str(found.exit_status) for found in _error_classes()}


def test_every_exit_status_is_listed():
    rows = re.findall(r"^\| (\d+) \| .+ \|$", PAGES["errors.md"], re.MULTILINE)
    assert {0, *(found.exit_status for found in _error_classes())} == {int(row) for row in rows}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages(page):
    links = re.findall(r"\]\(([\w./-]+\.md)\)", PAGES[page])
    assert all((ROOT / "docs" / link).is_file() for link in links), links


@pytest.mark.parametrize("page", TEXTS)
def test_no_path_of_one_machine(page):
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users)\b", TEXTS[page])
