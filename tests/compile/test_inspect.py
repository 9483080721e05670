"""`inspect` on small artifacts that the stock tools write, whole and damaged."""

import json
import random
import subprocess
import sys
import time
import types
from pathlib import Path

import onnx
import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

import edgecompile.artifact
from edgecompile.errors import NotABundleError, UnreadableArtifactError
from edgecompile.inspect_artifact import inspect
from edgecompile.readers import onnx as onnx_reader
from edgecompile.readers import pte, ptl
from edgecompile.readers.contents import ArtifactContents

EXAMPLE = (torch.linspace(-2, 2, 3 * 16 * 16).reshape(1, 3, 16, 16),)
READERS = {"pte": pte.read, "ptl": ptl.read, "onnx": onnx_reader.read}


class SmallNet(nn.Module):
    """Conv, depthwise conv, residual add, mean, linear."""

    def __init__(self, keep_dimensions: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)
        self.keep_dimensions = keep_dimensions

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.stem(picture))
        features = features + torch.relu(self.depthwise(features))
        if self.keep_dimensions:
            return self.head(features.mean([2, 3], keepdim=True).flatten(1))
        return self.head(features.mean([2, 3]))


class PackedNet(nn.Module):
    """What the lite interpreter runs in INT8, with one linear left in float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.ops.quantized.conv2d_prepack(
            _int8(torch.randn(8, 3, 3, 3)), torch.randn(8), [1, 1], [1, 1], [1, 1], 1
        )
        self.linear = torch.ops.quantized.linear_prepack(_int8(torch.randn(5, 8)), torch.randn(5))
        self.register_buffer("head", torch.randn(4, 5))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        data = torch.quantize_per_tensor(picture, 0.05, 128, torch.quint8)
        data = torch.ops.quantized.conv2d_relu(data, self.conv, 0.1, 0)
        data = torch.ops.quantized.add(data, data, 0.2, 3)
        data = torch.ops.quantized.linear(data.mean([2, 3]), self.linear, 0.3, 77)
        return torch.nn.functional.linear(torch.dequantize(data), self.head)


def _int8(weight: torch.Tensor) -> torch.Tensor:
    channels = weight.shape[0]
    scales, zero_points = torch.full((channels,), 0.02), torch.zeros(channels, dtype=torch.long)
    return torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)


def _quantized(program: ExportedProgram) -> ExportedProgram:
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    prepared(*EXAMPLE)
    return torch.export.export(convert_pt2e(prepared), EXAMPLE)


@pytest.fixture(scope="session")
def inspected_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of {int8,float}.{pte,onnx} and {plain,frozen}.ptl; XNNPACK declines the float net's mean."""
    folder = tmp_path_factory.mktemp("inspected")
    torch.manual_seed(0)
    quantized = _quantized(torch.export.export(SmallNet().eval(), EXAMPLE))
    split = torch.export.export(SmallNet(keep_dimensions=False).eval(), EXAMPLE)
    for name, program in {"int8": quantized, "float": split}.items():
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        (folder / f"{name}.pte").write_bytes(lowered.to_executorch().buffer)
        torch.onnx.export(program, dynamo=True, verbose=False).save(folder / f"{name}.onnx")
    engine, torch.backends.quantized.engine = torch.backends.quantized.engine, "qnnpack"
    scripted = torch.jit.script(PackedNet().eval())
    scripted._save_for_lite_interpreter(str(folder / "plain.ptl"))
    torch.jit.freeze(scripted)._save_for_lite_interpreter(str(folder / "frozen.ptl"))
    torch.backends.quantized.engine = engine
    return folder


def _read(path: Path) -> ArtifactContents:
    return READERS[path.suffix[1:]](path.read_bytes())


def test_int8_pte_is_one_delegate_with_nothing_outside(inspected_folder: Path) -> None:
    contents = _read(inspected_folder / "int8.pte")
    assert contents.delegates == {"xnnpack": 1}
    assert contents.outside_delegate == {}
    assert (contents.integer_layers, contents.float_layers) == (3, 0)
    layers = {layer.operator: layer for layer in contents.layers}
    conv = layers["conv2d"]
    assert (conv.weight_dtype, conv.weight_bytes, conv.shape) == ("int8", 8 * 3 * 9, (1, 16, 16, 8))
    assert conv.zero_point == -128
    assert conv.scale is not None
    assert conv.clamp is not None
    assert conv.clamp[0] == 0
    assert layers["depthwise_conv2d"].weight_bytes == 8 * 9
    assert layers["fully_connected"].weight_bytes == 5 * 8
    assert contents.inputs[0].shape == (1, 3, 16, 16)
    assert contents.inputs[0].dtype == "float32"
    assert contents.outputs[0].shape == (1, 5)


def test_float_pte(inspected_folder: Path) -> None:
    contents = _read(inspected_folder / "float.pte")
    assert (contents.integer_layers, contents.float_layers) == (0, 3)
    assert contents.weight_bytes == 4 * (8 * 27 + 8 * 9 + 5 * 8)


def test_operators_outside_the_delegate_are_counted(inspected_folder: Path) -> None:
    contents = _read(inspected_folder / "float.pte")
    assert contents.delegates == {"xnnpack": 2}
    assert contents.outside_delegate == {"aten::mean": 1}
    assert [layer.operator for layer in contents.layers if layer.where == "portable"] == ["aten::mean"]


@pytest.mark.parametrize("name", ["plain", "frozen"])
def test_ptl(inspected_folder: Path, name: str) -> None:
    contents = _read(inspected_folder / f"{name}.ptl")
    assert contents.operators == {
        "aten::quantize_per_tensor": 1,
        "quantized::conv2d_relu": 1,
        "quantized::add": 1,
        "aten::mean": 1,
        "quantized::linear": 1,
        "aten::dequantize": 1,
        "aten::linear": 1,
    }
    assert (contents.integer_layers, contents.float_layers) == (2, 1)
    layers = {layer.operator: layer for layer in contents.layers}
    conv = layers["quantized::conv2d_relu"]
    assert (conv.weight_dtype, conv.weight_bytes, conv.scale, conv.zero_point) == ("int8", 216, 0.1, 0)
    assert (layers["quantized::linear"].scale, layers["quantized::linear"].zero_point) == (0.3, 77)
    assert (layers["aten::mean"].scale, layers["aten::mean"].zero_point) == (0.2, 3)
    assert layers["aten::linear"].weight_bytes == 4 * 20
    assert [tensor.name for tensor in contents.inputs] == ["picture"]
    if name == "plain":
        assert (conv.name, layers["aten::linear"].name) == ("conv", "head")


def test_onnx(inspected_folder: Path) -> None:
    contents = _read(inspected_folder / "int8.onnx")
    assert (contents.integer_layers, contents.float_layers) == (3, 0)
    conv = contents.layers[0]
    assert (conv.operator, conv.weight_dtype, conv.weight_bytes) == ("Conv", "int8", 216)
    assert (conv.zero_point, conv.clamp, conv.shape) == (-128, (0.0, float("inf")), (1, 8, 16, 16))
    assert contents.inputs[0].scale is not None
    float_contents = _read(inspected_folder / "float.onnx")
    assert (float_contents.integer_layers, float_contents.float_layers) == (0, 3)


def test_onnx_conv_whose_output_stays_float_is_float(inspected_folder: Path) -> None:
    model = onnx.load(inspected_folder / "int8.onnx")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    shape = onnx.helper.make_tensor_value_info(conv.output[0], onnx.TensorProto.FLOAT, [1, 8, 16, 16])
    model.graph.output.append(shape)  # its value is wanted before the quantization
    contents = onnx_reader.read(model.SerializeToString())
    assert (contents.integer_layers, contents.float_layers) == (2, 1)


def test_the_engine_is_asked_what_it_executes(inspected_folder: Path) -> None:
    inspection = inspect(inspected_folder / "float.onnx")
    contents = inspection.artifacts[0].contents
    assert contents.optimized_operators is not None
    assert (contents.executed_integer_layers, contents.executed_float_layers) == (0, 3)
    assert "run on this CPU" in inspection.text()


def test_a_model_that_the_engine_rejects_is_still_read(inspected_folder: Path, tmp_path: Path) -> None:
    model = onnx.load(inspected_folder / "float.onnx")
    model.opset_import[0].version = 10_000  # the checker takes it for the newest
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    (artifact,) = inspect(tmp_path / "float.onnx").artifacts
    assert artifact.contents.optimized_operators is None
    assert "ONNX Runtime" in artifact.notes[0]


def test_onnx_external_data_is_refused(inspected_folder: Path) -> None:
    model = onnx.load(inspected_folder / "float.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere.bin")
    with pytest.raises(UnreadableArtifactError, match="not a readable") as caught:
        onnx_reader.read(model.SerializeToString())
    assert "external data" in caught.value.render()


@pytest.mark.parametrize("name", ["int8.pte", "float.pte", "plain.ptl", "frozen.ptl"])
def test_text_and_dictionary(inspected_folder: Path, name: str) -> None:
    inspection = inspect(inspected_folder / name)
    text = inspection.text(layers=True)
    assert name in text
    assert "conv and linear" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 110
    assert len(inspection.text().splitlines()) < 15
    (artifact,) = json.loads(json.dumps(inspection.to_dict(), allow_nan=False))["artifacts"]
    assert artifact["format"] == name[-3:]
    assert artifact["layers"]


def test_the_suffix_is_only_a_hint(inspected_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((inspected_folder / "int8.pte").read_bytes())
    assert inspect(path).artifacts[0].contents.format == "pte"


def test_a_bundle_shows_each_artifact(
    inspected_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    names = ["int8.pte", "plain.ptl"]
    for name in names:
        (tmp_path / name).write_bytes((inspected_folder / name).read_bytes())
    manifest = types.SimpleNamespace(inputs=(), outputs=())
    files = [types.SimpleNamespace(path=Path(name)) for name in names]
    bundle = types.SimpleNamespace(artifacts=files, manifest=manifest)
    monkeypatch.setattr(edgecompile.artifact, "load_bundle", lambda path: bundle, raising=False)
    inspection = inspect(tmp_path)
    assert [artifact.name for artifact in inspection.artifacts] == names
    assert inspection.text().count("conv and linear") == 2


def test_paths_that_hold_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(NotABundleError, match="not a bundle"):
        inspect(tmp_path)
    with pytest.raises(NotABundleError, match="nothing at"):
        inspect(tmp_path / "missing.pte")
    for name, data in {"empty.pte": b"", "text.ptl": b"print('hello')", "zeros.onnx": bytes(100)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableArtifactError) as caught:
            inspect(tmp_path / name)
        assert str(tmp_path / name) in caught.value.render()


def test_reading_a_pte_does_not_import_torch(inspected_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgecompile.inspect_artifact import inspect;"
        "inspect(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    root = Path(edgecompile.artifact.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(inspected_folder / "int8.pte")], cwd=root, check=True)


def _damaged(data: bytes, source: random.Random) -> bytes:
    damaged = bytearray(data)
    place = source.randrange(len(data))
    match source.randrange(5):
        case 0:
            return bytes(damaged[:place])
        case 1:
            damaged[place] ^= 1 << source.randrange(8)
        case 2:
            for _ in range(20):
                damaged[source.randrange(len(data))] = source.randrange(256)
        case 3:
            damaged[place : place + 4] = b"\xff\xff\xff" + source.choice([b"\xff", b"\x7f"])
        case _:
            del damaged[place : place + source.randrange(200)]
    return bytes(damaged)


@pytest.mark.parametrize(
    "name", ["int8.pte", "float.pte", "plain.ptl", "frozen.ptl", "int8.onnx", "float.onnx"]
)
def test_damage_is_an_error_or_a_reading(inspected_folder: Path, name: str) -> None:
    data = (inspected_folder / name).read_bytes()
    source = random.Random(name)
    start = time.monotonic()
    refused = 0
    for _ in range(100):
        try:
            READERS[name.split(".")[1]](_damaged(data, source))
        except UnreadableArtifactError as error:
            assert error.render().startswith("error[unreadable-artifact]")
            refused += 1
    assert refused > 50
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", ["int8.pte", "plain.ptl", "int8.onnx"])
def test_every_truncation_is_refused(inspected_folder: Path, name: str) -> None:
    data = (inspected_folder / name).read_bytes()
    for size in range(0, len(data) - 1, max(1, len(data) // 150)):
        with pytest.raises(UnreadableArtifactError):
            READERS[name.split(".")[1]](data[:size])
