"""The platform ios: parsed; its package's structure; there is no Swift compiler to build it with here."""

from __future__ import annotations

import re

import pytest
from grammars import LANGUAGES, ODD_BUNDLES, nodes, problems
from synthetic_bundle import PICTURES, write_bundle
from test_every_platform import project, texts
from tree_sitter import Parser

BUNDLES = {**ODD_BUNDLES, "pictures": {"name": "seen", "pipeline": PICTURES}}


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_every_source_parses(tmp_path, bundle):
    files = texts(project(write_bundle(tmp_path / "bundle", **bundle), "ios"))
    sources = {path: text for path, text in files.items() if path.endswith(".swift")}
    assert len(sources) == (5 if "pipeline" in bundle else 3)
    assert [line for text in sources.values() for line in problems(text, "swift")] == []


def test_the_grammar_finds_what_is_no_swift():
    assert problems("func f(in: Int { return }\n", "swift")


def test_words_of_the_language_are_no_names(tmp_path):
    files = texts(project(write_bundle(tmp_path / "bundle", **ODD_BUNDLES["words"]), "ios"))
    model = files["Sources/ClassModelModel/Model.swift"]
    parameters = re.findall(r"^    (\w+): \[\w+\],?$", model, re.MULTILINE)
    assert parameters == ["in_", "fun", "self_", "function"]
    assert re.findall(r"public let (\w+):", model) == ["return_", "default_"]


def test_the_package(tmp_path):
    files = project(write_bundle(tmp_path / "bundle", name="seen", pipeline=PICTURES), "ios")
    package = files["Package.swift"].decode()
    assert package.startswith("// swift-tools-version:5.9\n")
    # What stands in the calls of Package.swift, as a parser sees it.
    tree = Parser(LANGUAGES["swift"]).parse(package.encode())
    calls = [node.text.decode() for node in nodes(tree.root_node) if node.type == "call_expression"]
    dependency = next(call for call in calls if call.startswith(".package("))
    assert '"https://github.com/pytorch/executorch.git"' in dependency
    assert 'branch: "swiftpm-1.5.1"' in dependency
    products = [re.findall(r'"(\w+)"', call) for call in calls if call.startswith(".product(")]
    assert sorted(name for name, package in products if package == "executorch") == [
        "backend_xnnpack", "executorch", "kernels_optimized", "kernels_quantized",
    ]  # fmt: skip
    targets = [call for call in calls if call.startswith((".target(", ".testTarget("))]
    names = re.findall(r'^ *name: "(\w+)"|^\.\w+\(name: "(\w+)"', "\n".join(targets), re.MULTILINE)
    assert sorted(names) == [("", "SeenModelTests"), ("SeenModel", "")]
    assert package.count('resources: [.copy("assets")]') == 2
    assert {"Sources/SeenModel/assets/seen.pte", "Sources/SeenModel/assets/labels.txt"} <= set(files)
    assert len([path for path in files if path.startswith("Tests/SeenModelTests/assets/goldens/")]) == 4
