"""The lite interpreter's bytecode, followed symbolically: which operator gets which arguments.

Only straight-line code is followed, which is what our emitter and tracing write. After a branch the
operators are still listed, with their arguments unknown.
Instructions: torch/csrc/jit/runtime/instruction.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecompile.readers.pickled import Instance, expect

# They leave the stack and the registers as they are.
NEUTRAL = frozenset({"NOP", "RET", "WARN", "PROFILE_OP"})


@dataclass(frozen=True, eq=False)
class Attribute:
    """A value read from the module, with its dotted name."""

    name: str
    value: object


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operator; `arguments` is None where the code is not straight-line."""

    operator: str
    arguments: tuple[object, ...] | None


class Function:
    """One function of `bytecode.pkl`.

    Args:
        entry: (name, code, schema), the schema absent in old files.
        module: The root object, which is the first argument of every method.
    """

    def __init__(self, entry: object, module: object) -> None:
        name, code, *schema = expect(entry, tuple)
        self.name = expect(name, str)
        self._code = table(code)
        self._schema = table(schema[0]) if schema else {}
        self._module = Attribute("", module)

    def variables(self, field: str) -> list[tuple[str, str]]:
        """Return (name, type) of the `arguments` (without the module) or of the `returns`."""
        found = []
        for variable in expect(self._schema.get(field, ()), tuple):
            entries = table(variable)
            found.append((expect(entries["name"], str), expect(entries["type"], str)))
        return found[1:] if field == "arguments" else found

    def follow(self, record: Callable[[Call], object]) -> None:
        """Visit the function's calls in order.

        Args:
            record: Takes each call and returns what stands for its value among the arguments of others.
        """
        operators = [expect(operator, tuple) for operator in expect(self._code["operators"], tuple)]
        constants = expect(self._code["constants"], tuple)
        machine: _Machine | None = _Machine(self._module, len(self.variables("arguments")), constants)
        for instruction in expect(self._code["instructions"], tuple):
            operation, first, second = expect(instruction, tuple)
            operation, first, second = expect(operation, str), expect(first, int), expect(second, int)
            if operation not in {"OP", "OPN"}:
                machine = machine and machine.step(operation, first, second)
                continue
            name, _, *specified = operators[first]
            taken = second if operation == "OPN" else specified[0] if specified else None
            arguments = machine.pop(taken) if machine and isinstance(taken, int) else None
            machine = machine if arguments is not None else None
            value = record(Call(expect(name, str), arguments))
            if machine:
                machine.stack.append(value)


class _Machine:
    """Stack and registers."""

    def __init__(self, module: object, argument_count: int, constants: tuple[object, ...]) -> None:
        inputs = (Instance("input", ()) for _ in range(argument_count))
        self.stack: list[object] = [module, *inputs]
        self.registers: dict[int, object] = {}
        self.constants = constants

    def pop(self, count: int) -> tuple[object, ...] | None:
        """Take the top values, None if there are not that many."""
        if not 0 <= count <= len(self.stack):
            return None
        split = len(self.stack) - count
        values = tuple(self.stack[split:])
        del self.stack[split:]
        return values

    def step(self, operation: str, first: int, second: int) -> _Machine | None:
        """Execute an instruction; return None where the code can no longer be followed."""
        match operation:
            case "LOADC":
                self.stack.append(self.constants[first])
            case "LOAD" | "MOVE":
                self.stack.append(self.registers.get(first))
            case "STORE" | "STOREN":
                values = self.pop(second if operation == "STOREN" else 1)
                if values is None:
                    return None
                self.registers.update(enumerate(values, start=first))
            case "DROP":
                return self if self.pop(1) else None
            case "DROPR":
                self.registers.pop(first, None)
            case "GET_ATTR":
                return self if self._get_attribute(first) else None
            case "LIST_CONSTRUCT" | "TUPLE_CONSTRUCT" | "NAMED_TUPLE_CONSTRUCT":
                values = self.pop(first if operation == "TUPLE_CONSTRUCT" else second)
                if values is None:
                    return None
                self.stack.append(values)
            case _:
                return self if operation in NEUTRAL else None
        return self

    def _get_attribute(self, slot: int) -> bool:
        """Replace the object on the stack by its attribute; the slots are in the state's order."""
        owner = self.stack.pop() if self.stack else None
        value = owner.value if isinstance(owner, Attribute) else owner
        state = value.state if isinstance(value, Instance) else None
        if not isinstance(state, dict) or not 0 <= slot < len(state):
            return False
        name = list(state)[slot]
        prefix = f"{owner.name}." if isinstance(owner, Attribute) and owner.name else ""
        self.stack.append(Attribute(prefix + str(name), state[name]))
        return True


def table(pairs: object) -> dict[str, object]:
    """Return the dictionary that TorchScript writes as a tuple of pairs."""
    found: dict[str, object] = {}
    for pair in expect(pairs, tuple):
        key, value = expect(pair, tuple)
        found[expect(key, str)] = value
    return found
