"""A program that was read back from the cache gives the artifacts that it would have given before."""

import json
from dataclasses import replace

import networks
import pytest
import torch

from edgecompile.capture import capture, load_model
from edgecompile.dataset import load_dataset
from edgecompile.emitter import load_emitter
from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import run_passes
from edgecompile.lift import lift
from edgecompile.program_entry import program_text, read_program
from edgecompile.program_file import to_text
from edgecompile.progress import QuietProgress
from edgecompile.quantize import static_int8
from edgecompile.quantize.layers import constants_of
from edgecompile.signature import input_specs, inputs_of
from edgecompile.stage_cache import HashedFile
from edgecompile.stages.captured import Captured
from edgecompile.stages.quantized import Calibrated, Quantized
from edgecompile.target import load_target
from edgecompile.tensor_file import read_tensors, write_tensors

TARGET = load_target("android-arm64")


def round_trip(stage, value, file):
    with file.open("wb") as opened:
        summary = stage.write(value, HashedFile(opened))
    return stage.read(file, json.loads(json.dumps(summary)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("network", "data"), [("small", "pictures"), ("several", "several_inputs")])
def test_every_state_survives(tmp_path, network, data, dynamic):
    captured = capture(load_model(f"{networks.__file__}:{network}"), dynamic_batch=dynamic)
    again = round_trip(Captured(), captured, tmp_path / "captured")
    assert (again.name, again.steps) == (captured.name, captured.steps)
    samples = load_dataset(f"{networks.__file__}:{data}", input_specs(captured.exported))
    kept = []
    for program in (captured, again):
        rewritten = run_passes(program, [entry.name for entry in TARGET.passes])
        prepared = static_int8.prepare(rewritten, TARGET.quantization)
        ranges = static_int8.calibrate(prepared, samples, TARGET.quantization, QuietProgress())
        kept.append(static_int8.convert(prepared, ranges))
        other = static_int8.prepare(rewritten, TARGET.quantization)  # never saw a sample
        kept.append(static_int8.convert(other, round_trip(Calibrated(), ranges, tmp_path / "ranges")))
    kept.append(round_trip(Quantized(), kept[0], tmp_path / "quantized"))
    assert kept[-1].unquantized == kept[0].unquantized and kept[-1].steps == kept[0].steps
    formats = TARGET.formats if network == "small" else ("ptl", "onnx")
    for settings in (TARGET.emit[name] for name in formats):
        artifacts = [load_emitter(settings.emitter).emit(program, settings) for program in kept]
        assert all(artifact == artifacts[0] for artifact in artifacts), settings.emitter


@pytest.mark.parametrize("dynamic", [False, True])
def test_lifting_gives_what_another_export_gives(dynamic):
    captured = capture(load_model(f"{networks.__file__}:small"), dynamic_batch=dynamic)
    module = captured.exported.module(check_guards=False)
    example = torch.rand(2 if dynamic else 1, 3, 16, 16)
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: batch},) if dynamic else None)
    lifted = lift(module, captured.exported)
    assert to_text(lifted) == to_text(exported)
    constants = constants_of(exported)
    assert all(torch.equal(value, constants[name]) for name, value in constants_of(lifted).items())


def test_a_dynamic_batch_stays_dynamic_when_it_is_read_back():
    captured = capture(load_model(f"{networks.__file__}:small"), dynamic_batch=True)
    text = program_text(captured.exported)
    again = read_program(text, dict(constants_of(captured.exported)))
    assert program_text(again) == text
    assert again.module()(torch.rand(40, 3, 16, 16)).shape == (40, 5)


def test_equal_programs_have_equal_texts_in_every_capture():
    spec = f"{networks.__file__}:small"
    texts = {program_text(capture(load_model(spec), dynamic_batch=False).exported) for _ in range(2)}
    assert len(texts) == 1


TENSORS = {
    "float": torch.rand(3, 5),
    "channels-last": torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "half": torch.rand(7).to(torch.bfloat16),
    "integers": torch.arange(9).reshape(3, 3).to(torch.int8),
    "bools": torch.tensor([True, False]),
    "double": torch.rand(2, dtype=torch.float64),
}


def test_tensors_are_read_back_bit_for_bit(tmp_path):
    tied = TENSORS | {"tied": TENSORS["float"]}
    with (tmp_path / "file").open("wb") as file:
        write_tensors(file, tied, "text ü")
    found, text = read_tensors(tmp_path / "file")
    assert text == "text ü" and list(found) == list(tied)
    for name, value in tied.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
        assert found[name].is_contiguous()
    assert found["tied"].data_ptr() == found["float"].data_ptr()
    found["float"].zero_()  # private to this process
    assert torch.equal(read_tensors(tmp_path / "file")[0]["float"], TENSORS["float"])


def test_a_cut_file_is_refused_whatever_its_length(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        write_tensors(file, TENSORS, "text")
    whole = (tmp_path / "file").read_bytes()
    for length in (*range(0, 200, 7), len(whole) // 2, len(whole) - 1):
        (tmp_path / "file").write_bytes(whole[:length])
        with pytest.raises((ValueError, OSError)):
            read_tensors(tmp_path / "file")


def test_a_text_that_is_no_program_is_refused():
    captured = capture(load_model(f"{networks.__file__}:small"), dynamic_batch=False)
    document = json.loads(program_text(captured.exported))
    call = next(row for row in document["rows"] if "call" in row)
    for name in ("os.system", "aten.add_.Tensor", "builtins.eval.default", "aten.from_file.default"):
        call["call"] = name
        with pytest.raises((ValueError, AttributeError)):
            read_program(json.dumps(document), dict(constants_of(captured.exported)))


def test_a_program_with_another_dynamic_size_is_kept(tmp_path):
    length = torch.export.Dim("length", min=2, max=64)
    module = torch.nn.Linear(4, 4)
    exported = torch.export.export(module, (torch.rand(1, 8, 4),), dynamic_shapes=({1: length},))
    captured = capture(load_model(f"{networks.__file__}:small"), dynamic_batch=False)
    assert Captured().can_keep(captured)
    program = replace(captured, exported=ProgramEditor(exported).finish())
    assert Captured().can_keep(program)
    again = round_trip(Captured(), program, tmp_path / "captured").exported
    assert inputs_of(again) == inputs_of(program.exported)
    assert again.module(check_guards=False)(torch.rand(1, 40, 4)).shape == (1, 40, 4)
    height = torch.export.Dim("height", min=2, max=64)
    in_steps = torch.export.export(module, (torch.rand(1, 8, 4),), dynamic_shapes=({1: 2 * height},))
    program = replace(captured, exported=ProgramEditor(in_steps).finish())
    again = round_trip(Captured(), program, tmp_path / "in_steps").exported
    assert inputs_of(again) == inputs_of(program.exported) and inputs_of(again)[0].dynamic[0].step == 2
    derived = torch.export.export(
        Twice(), (torch.rand(1, 8, 4), torch.rand(1, 16, 4)), dynamic_shapes=({1: height}, {1: 2 * height})
    )
    assert not Captured().can_keep(replace(captured, exported=derived))


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1) + y
