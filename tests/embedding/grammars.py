"""Sources parsed by the grammars of editors: tree-sitter's."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_kotlin
import tree_sitter_swift
import tree_sitter_typescript
from synthetic_bundle import tensor
from tree_sitter import Language, Node, Parser

LANGUAGES = {
    "kt": Language(tree_sitter_kotlin.language()),
    "kts": Language(tree_sitter_kotlin.language()),
    "swift": Language(tree_sitter_swift.language()),
    "ts": Language(tree_sitter_typescript.language_typescript()),
    "tsx": Language(tree_sitter_typescript.language_tsx()),
}

# What `write_bundle` takes: names that are words of languages, or of the templates, and several inputs.
ODD_BUNDLES = {
    "words": {
        "name": "class",
        "inputs": (
            tensor("in", 1, 4),
            tensor("fun", 2, dtype="int64"),
            tensor("self", 1, 2, 3, dtype="uint8"),
            tensor("function", 3, dtype="int32"),
        ),
        "outputs": (tensor("return", 1, 4), tensor("default", 2, dtype="int8")),
    },
    "ours": {
        "name": "Tensor",
        "inputs": tuple(
            tensor(name, 1, 3)
            for name in (
                "engine",
                "module",
                "session",
                "Tensor",
                "results",
                "context",
                "model",
                "environment",
            )
        ),
        "outputs": (tensor("outputs", 1, 3), tensor("inputs", 2, dtype="int32"), tensor("engine", 2)),
    },
    "odd": {
        "name": "3 größe/net",
        "inputs": (tensor("0", 1, 2), tensor("x.y-z", 2, 2, dtype="float64")),
        "outputs": (tensor("猫", 1, 5),),
    },
}


def problems(text: str, language: str) -> list[str]:
    """Return the lines that are no such source."""
    tree = Parser(LANGUAGES[language]).parse(text.encode())
    lines = text.splitlines()
    return [
        f"{node.start_point.row + 1}: {lines[node.start_point.row]}"
        for node in nodes(tree.root_node)
        if node.is_error or node.is_missing
    ]


def nodes(root: Node) -> Iterator[Node]:
    """Yield all nodes."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)
