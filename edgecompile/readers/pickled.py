"""Pickles, read as data: nothing is imported, called or constructed, whatever the pickle asks for.

TorchScript's archives hold pickles, and Python's own `pickle` executes them. This machine knows the few
opcodes that TorchScript's pickler writes; what a pickle would call becomes an `Instance` that says so.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import TypeVar, cast

CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUT, GET = frozenset({"BINPUT", "LONG_BINPUT"}), frozenset({"BINGET", "LONG_BINGET"})
PERSISTENT = "persistent"  # the type name of an Instance that stands for a record beside the pickle

_MARK = object()
Expected = TypeVar("Expected")


@dataclass(frozen=True)
class Global:
    """A function or class that the pickle names."""

    name: str


@dataclass(eq=False)
class Instance:
    """What the pickle would have made by calling `type_name` with `arguments`."""

    type_name: str
    arguments: tuple[object, ...]
    state: object = None


def read_pickle(data: bytes) -> object:
    """Return the pickle's value made of tuples, lists, dictionaries, scalars, `Global` and `Instance`.

    Raises:
        ValueError: If it is damaged or uses an opcode that TorchScript does not write.
        IndexError: If it takes more from its stack than is there.
        KeyError: If it refers to an entry of its memo that it has not made.
    """
    stack: list[object] = []
    memo: dict[int, object] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in {"PROTO", "FRAME"}:
            continue
        if name == "STOP":
            return stack.pop()
        if name in PUT:
            memo[cast(int, argument)] = stack[-1]
        elif name in GET:
            stack.append(memo[cast(int, argument)])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in LITERALS:
            stack.append(argument)
        else:
            _step(name, argument, stack)
    raise ValueError("a pickle of the archive has no end")


def _step(name: str, argument: object, stack: list[object]) -> None:
    """Execute an opcode that builds something from the stack's top."""
    match name:
        case "MARK":
            stack.append(_MARK)
        case "GLOBAL":
            stack.append(Global(str(argument).replace(" ", ".")))
        case "EMPTY_LIST" | "EMPTY_DICT":
            stack.append([] if name == "EMPTY_LIST" else {})
        case "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            items = [stack.pop() for _ in range(SHORT_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        case "APPEND" | "APPENDS":
            items = [stack.pop()] if name == "APPEND" else _to_mark(stack)
            expect(stack[-1], list).extend(items)
        case "SETITEM" | "SETITEMS":
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _to_mark(stack)
            # Hashing a nested tuple that the file wrote can take forever.
            if not all(isinstance(key, (str, int)) for key in items[::2]):
                raise ValueError("a pickle of the archive has a dictionary key that is no name or number")
            expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        case "REDUCE" | "NEWOBJ":
            arguments = expect(stack.pop(), tuple)
            stack.append(Instance(expect(stack.pop(), Global).name, arguments))
        case "BUILD":
            state = stack.pop()
            expect(stack[-1], Instance).state = state
        case "BINPERSID":
            stack.append(Instance(PERSISTENT, (stack.pop(),)))
        case _:
            raise ValueError(f"a pickle uses the opcode {name}, which TorchScript never writes")


def _to_mark(stack: list[object]) -> list[object]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def expect(value: object, kind: type[Expected]) -> Expected:
    """Return `value`, checked to be of a type.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, kind):
        raise ValueError(f"a pickle of the archive holds a {type(value).__name__} for a {kind.__name__}")
    return value
