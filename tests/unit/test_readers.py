"""The readers' building blocks, on bytes made by hand."""

import io
import pickle
import random
import struct
import time
import zipfile

import pytest

from edgecompile.errors import UnreadableArtifactError
from edgecompile.inspect_artifact import detect_format
from edgecompile.inspection_text import render
from edgecompile.readers import pte, ptl
from edgecompile.readers.bytecode import Call, Function
from edgecompile.readers.contents import ArtifactContents, LayerInfo
from edgecompile.readers.flatbuffer import Buffer, parse_schema
from edgecompile.readers.pickled import Global, Instance, read_pickle

SCHEMA = parse_schema(
    """
    // a comment with table Wrong { no: int; }
    enum Color : byte { RED = 0, BLUE = 2 }
    union Shape { Circle, Box: Square }
    table Circle { radius: float; }
    table Square { side: int = 3; }
    table Root { color: Color; shape: Shape; counts: [uint] (deprecated); parts: [Square]; name: string; }
    """
)


def _flatbuffer() -> bytearray:
    """Root(color=BLUE, shape=Box(side=7), counts=[1, 2], name="ab"), laid out by hand."""
    vtable = struct.pack("<8H", 16, 24, 4, 5, 8, 12, 0, 16)  # color, tag, shape, counts, no parts, name
    root_at = 8 + len(vtable)
    body_at = root_at + 24
    root = struct.pack("<iBBxx3I4x", len(vtable), 2, 2, body_at + 6 - root_at - 8, 0, 0)
    square = struct.pack("<3H", 6, 8, 4) + struct.pack("<ii", 6, 7)
    counts = struct.pack("<3I", 2, 1, 2)
    name = struct.pack("<I", 2) + b"ab\0"
    data = bytearray(struct.pack("<I", root_at) + b"TST0" + vtable + root + square + counts + name)
    counts_at = body_at + len(square)
    struct.pack_into("<I", data, root_at + 12, counts_at - root_at - 12)
    struct.pack_into("<I", data, root_at + 16, counts_at + len(counts) - root_at - 16)
    return data


def test_schema_gives_a_union_two_slots() -> None:
    slots = {name: field.slot for name, field in SCHEMA.tables["Root"].items()}
    assert slots == {"color": 0, "shape": 2, "counts": 3, "parts": 4, "name": 5}
    assert SCHEMA.enums["Color"] == ("byte", {0: "RED", 2: "BLUE"})
    assert "Wrong" not in SCHEMA.tables


def test_flatbuffer_fields() -> None:
    root = Buffer(bytes(_flatbuffer()), SCHEMA).root("Root", (b"TST0",))
    assert root.enum("color") == "BLUE"
    member, box = root.union("shape")
    assert (member, box.integer("side")) == ("Box", 7)
    assert root.integers("counts") == (1, 2)
    assert root.tables("parts") == []
    assert root.text("name") == "ab"


def test_flatbuffer_refuses_a_vector_past_the_end() -> None:
    data = _flatbuffer()
    place = data.index(struct.pack("<3I", 2, 1, 2))
    struct.pack_into("<I", data, place, 0x7FFFFFFF)
    with pytest.raises(ValueError, match="past the end"):
        Buffer(bytes(data), SCHEMA).root("Root", (b"TST0",)).integers("counts")


def test_flatbuffer_bounds_how_many_tables_a_file_may_stand_for() -> None:
    root = Buffer(bytes(_flatbuffer()), SCHEMA).root("Root", (b"TST0",))
    with pytest.raises(ValueError, match="more tables"):
        for _ in range(2000):
            root.union("shape")


def test_pickle_is_data_and_never_executed() -> None:
    dangerous = read_pickle(b"cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    assert isinstance(dangerous, Instance)
    assert (dangerous.type_name, dangerous.arguments) == ("os.system", ("exit",))


@pytest.mark.parametrize(
    "value", [(1, 2.5, "a", None, True, ()), [1, [2, 3]], {"a": 1, "b": (1, 2, 3, 4)}, ("x" * 300, 2**40)]
)
def test_pickle_values(value: object) -> None:
    assert read_pickle(pickle.dumps(value, protocol=2)) == value


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"}.."[:1], b"(l.", b"h\x07.", b"(", b"\x80\x02]", b"K\x01K\x02b.", b"K\x01)R.", b"K\x01e."],
    ids=repr,
)
def test_pickle_damage_is_an_exception_that_the_readers_report(data: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        read_pickle(data)


def test_pickle_refuses_keys_that_are_costly_to_hash() -> None:
    with pytest.raises(ValueError, match="dictionary key"):
        read_pickle(pickle.dumps({(1, 2): 3}, protocol=2))


def _function(instructions: list[tuple[str, int, int]], constants: tuple[object, ...] = ()) -> Function:
    operators = (("quantized::conv2d", "new", 4), ("aten::relu", "", 1))
    code = (
        ("instructions", tuple(instructions)),
        ("operators", operators),
        ("constants", constants),
        ("types", ()),
        ("register_size", 3),
    )
    variables = [(("name", name), ("type", "Tensor"), ("default_value", None)) for name in ("self", "x")]
    return Function(("m.forward", code, (("arguments", tuple(variables)), ("returns", ()))), _module())


def _module() -> Instance:
    inner = Instance("__torch__.Block", (), {"training": False, "conv": Instance("packed", ())})
    return Instance("__torch__.Net", (), {"block": inner})


def test_bytecode_follows_attributes_and_constants() -> None:
    program = [
        ("STOREN", 1, 2),
        ("LOAD", 2, 0),
        ("LOAD", 1, 0),
        ("GET_ATTR", 0, 0),
        ("GET_ATTR", 1, 0),
        ("LOADC", 0, 0),
        ("LOADC", 1, 0),
        ("OP", 0, 0),
        ("OP", 1, 0),
        ("RET", 0, 0),
    ]
    calls: list[Call] = []
    _function(program, (0.5, 3)).follow(lambda call: calls.append(call) or "result")
    conv, relu = calls
    assert conv.arguments is not None
    assert getattr(conv.arguments[1], "name", None) == "block.conv"
    assert conv.arguments[2:] == (0.5, 3)
    assert relu.arguments == ("result",)


@pytest.mark.parametrize("branch", [("JF", 2, 0), ("STOREN", 0, 99), ("GET_ATTR", 7, 0), ("DROP", 0, 0)])
def test_bytecode_lists_operators_that_it_cannot_follow(branch: tuple[str, int, int]) -> None:
    calls: list[Call] = []
    drops = [("DROP", 0, 0), ("DROP", 0, 0)] if branch[0] == "DROP" else []
    _function([*drops, branch, ("OP", 0, 0), ("OP", 1, 0)]).follow(calls.append)
    assert [(call.operator, call.arguments) for call in calls] == [
        ("quantized::conv2d", None),
        ("aten::relu", None),
    ]


@pytest.mark.parametrize(
    ("data", "suffix", "expected"),
    [
        (b"\x38\0\0\0ET12", "", "pte"),
        (b"PK\x03\x04", ".onnx", "ptl"),
        (b"\x08\x0a", "", "onnx"),
        (b"\x12\x0a", ".onnx", "onnx"),
        (b"\x12\x0a", "", None),
        (b"", ".onnx", None),
        (b"import torch", ".pte", None),
    ],
)
def test_format_is_decided_by_content(data: bytes, suffix: str, expected: str | None) -> None:
    assert detect_format(data, suffix) == expected


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_zip({"a.txt": b"x"}), "no bytecode"),
        (_zip({"m/bytecode.pkl": bytes(10_000_000)}, zipfile.ZIP_DEFLATED), "far more"),
        (_zip({"m/bytecode.pkl": b"N.", "m/data.pkl": b"N."}), "NoneType"),
        (_zip({"m/bytecode.pkl": b"(K\x08t.", "m/data.pkl": b"N."}), "no function"),
        (_zip({"m/bytecode.pkl": b"N."}), "data.pkl"),
        (b"PK\x03\x04", "not a zip"),
    ],
)
def test_ptl_damage(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableArtifactError) as caught:
        ptl.read(data)
    assert reason in caught.value.render()


def test_random_bytes_behind_a_pte_head_are_refused_fast() -> None:
    source = random.Random(5)
    start = time.monotonic()
    for size in range(12, 400):
        with pytest.raises(UnreadableArtifactError):
            pte.read(struct.pack("<I", 8) + b"ET12" + source.randbytes(size))
    assert time.monotonic() - start < 5


def test_names_cannot_steer_the_terminal() -> None:
    layer = LayerInfo(name="[red]\x1b[31m", operator="x", where="xnnpack", kind="conv", integer=True)
    contents = ArtifactContents(
        format="pte",
        engine="executorch",
        size_bytes=1,
        inputs=(),
        outputs=(),
        operators={"y" * 100_000: 1},
        layers=(layer,),
    )
    text = render("a.pte", contents, (), layers=True)
    assert "\x1b" not in text
    assert "[red]" in text
    assert len(text) < 10_000
    assert max(map(len, text.splitlines())) <= 110


def test_global_is_plain_data() -> None:
    assert read_pickle(b"ctorch\nQInt8Storage\n.") == Global("torch.QInt8Storage")
