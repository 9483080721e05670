"""FlatBuffers, read field by field with every bound checked.

The layout comes from the schema text (`.fbs`) that ExecuTorch ships, so that it follows the installed
version. Neither `flatc` (which trusts its input) nor a generated module (which imports torch) is needed.
Format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

SCALARS: Mapping[str, str] = {
    **dict.fromkeys(("bool", "ubyte", "uint8"), "B"),
    **dict.fromkeys(("byte", "int8"), "b"),
    **dict.fromkeys(("short", "int16"), "h"),
    **dict.fromkeys(("ushort", "uint16"), "H"),
    **dict.fromkeys(("int", "int32"), "i"),
    **dict.fromkeys(("uint", "uint32"), "I"),
    **dict.fromkeys(("long", "int64"), "q"),
    **dict.fromkeys(("ulong", "uint64"), "Q"),
    "float": "f",
    "double": "d",
}


@dataclass(frozen=True)
class Field:
    """A table's field: its place in the vtable and its type as the schema spells it."""

    slot: int
    type: str


@dataclass(frozen=True)
class Schema:
    """What the reader needs of a `.fbs` text.

    Attributes:
        enums: Enum -> the scalar that stores it, and its members by value.
        unions: Union -> its (member, table) pairs; tag 1 is the first.
    """

    tables: dict[str, dict[str, Field]]
    enums: dict[str, tuple[str, dict[int, str]]]
    unions: dict[str, list[tuple[str, str]]]


def parse_schema(*texts: str) -> Schema:
    """Parse the subset of the schema language that ExecuTorch's schemas use."""
    text = re.sub(r"//[^\n]*", "", "\n".join(texts))
    schema = Schema({}, {}, {})
    for name, storage, body in re.findall(r"\benum\s+(\w+)\s*:\s*(\w+)\s*\{([^}]*)\}", text):
        members = re.findall(r"(\w+)\s*=\s*(\d+)", body)
        schema.enums[name] = (storage, {int(value): member for member, value in members})
    for name, body in re.findall(r"\bunion\s+(\w+)\s*\{([^}]*)\}", text):
        pairs = re.findall(r"(\w+)\s*(?::\s*(\w+))?", body)
        schema.unions[name] = [(member, table or member) for member, table in pairs]
    for name, body in re.findall(r"\btable\s+(\w+)\s*\{([^}]*)\}", text):
        fields: dict[str, Field] = {}
        slot = 0
        for field_name, field_type in re.findall(r"(\w+)\s*:\s*(\[?\s*\w+\s*\]?)[^;]*;", body):
            slot += field_type in schema.unions  # a union's tag has a slot of its own before the value
            fields[field_name] = Field(slot, re.sub(r"\s", "", field_type))
            slot += 1
        schema.tables[name] = fields
    return schema


class Buffer:
    """The bytes, and how many tables may still be opened.

    Offsets can point to the same table many times, so that a crafted file of a few kilobytes would
    otherwise describe billions of operators.
    """

    def __init__(self, data: bytes, schema: Schema) -> None:
        self.data = data
        self.schema = schema
        self.tables_left = 1000 + len(data)

    def unpack(self, layout: str, position: int) -> int | float:
        """Return one little-endian number."""
        if not 0 <= position <= len(self.data) - struct.calcsize(layout):
            raise ValueError(f"an offset points to byte {position} of {len(self.data)}")
        number: int | float = struct.unpack_from("<" + layout, self.data, position)[0]
        return number

    def follow(self, position: int) -> int:
        """Return where the offset stored at `position` points."""
        return position + int(self.unpack("I", position))

    def root(self, type_name: str, identifiers: tuple[bytes, ...]) -> Table:
        """Return the root table.

        Raises:
            ValueError: If the file identifier is not one of `identifiers`.
        """
        if self.data[4:8] not in identifiers:
            raise ValueError(f"the file identifier is {self.data[4:8]!r}, not one of {identifiers}")
        return Table(self, type_name, self.follow(0))


class Table:
    """One table; a field that the file leaves out reads as 0, "" or nothing, as the format says."""

    def __init__(self, buffer: Buffer, type_name: str, position: int) -> None:
        buffer.tables_left -= 1
        if buffer.tables_left < 0:
            raise ValueError("it refers to more tables than it can hold")
        self.buffer = buffer
        self.type_name = type_name
        self.fields = buffer.schema.tables[type_name]
        self.position = position
        self.vtable = position - int(buffer.unpack("i", position))
        self.vtable_bytes = int(buffer.unpack("H", self.vtable))

    def _slot(self, slot: int) -> int | None:
        """Return where the field in `slot` is stored, None if it is left out."""
        entry = 4 + 2 * slot
        if entry + 2 > self.vtable_bytes:
            return None
        offset = int(self.buffer.unpack("H", self.vtable + entry))
        return self.position + offset if offset else None

    def number(self, name: str) -> int | float:
        """Return a scalar field."""
        position = self._slot(self.fields[name].slot)
        return 0 if position is None else self.buffer.unpack(SCALARS[self.fields[name].type], position)

    def integer(self, name: str) -> int:
        """Return an integer field."""
        return int(self.number(name))

    def enum(self, name: str) -> str:
        """Return the name of an enum field's member.

        Raises:
            ValueError: If the enum has no member of that value.
        """
        storage, members = self.buffer.schema.enums[self.fields[name].type]
        position = self._slot(self.fields[name].slot)
        value = 0 if position is None else int(self.buffer.unpack(SCALARS[storage], position))
        if value not in members:
            raise ValueError(f"{self.type_name}.{name} is {value}")
        return members[value]

    def _vector(self, name: str, item_bytes: int) -> tuple[int, int]:
        """Return a vector's first byte and length, having checked that it is inside the file."""
        position = self._slot(self.fields[name].slot)
        if position is None:
            return 0, 0
        start = self.buffer.follow(position)
        length = int(self.buffer.unpack("I", start))
        if start + 4 + length * item_bytes > len(self.buffer.data):
            raise ValueError(f"{self.type_name}.{name} has {length} items, past the end of the file")
        return start + 4, length

    def text(self, name: str) -> str:
        """Return a string field."""
        start, length = self._vector(name, 1)
        return self.buffer.data[start : start + length].decode()

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a vector of integers."""
        layout = SCALARS[self.fields[name].type.strip("[]")]
        start, length = self._vector(name, struct.calcsize(layout))
        return struct.unpack_from(f"<{length}{layout}", self.buffer.data, start)

    def data(self, name: str) -> bytes:
        """Return a vector of bytes."""
        start, length = self._vector(name, 1)
        return self.buffer.data[start : start + length]

    def table(self, name: str) -> Table | None:
        """Return a table field, None if it is left out."""
        position = self._slot(self.fields[name].slot)
        if position is None:
            return None
        return Table(self.buffer, self.fields[name].type, self.buffer.follow(position))

    def tables(self, name: str) -> list[Table]:
        """Return a vector of tables."""
        start, length = self._vector(name, 4)
        type_name = self.fields[name].type.strip("[]")
        positions = range(start, start + 4 * length, 4)
        return [Table(self.buffer, type_name, self.buffer.follow(position)) for position in positions]

    def union(self, name: str) -> tuple[str, Table]:
        """Return a union field: the member's name and its table.

        Raises:
            ValueError: If it is empty, or of a member that the schema does not know.
        """
        slot = self.fields[name].slot
        tag_position, position = self._slot(slot - 1), self._slot(slot)
        tag = 0 if tag_position is None else int(self.buffer.unpack("B", tag_position))
        members = self.buffer.schema.unions[self.fields[name].type]
        if position is None or not 1 <= tag <= len(members):
            raise ValueError(f"{self.type_name}.{name} has the unknown type {tag}")
        member, type_name = members[tag - 1]
        return member, Table(self.buffer, type_name, self.buffer.follow(position))
