import dataclasses

import pytest

from edgecompile.errors import (
    ConfigurationErrors,
    InvalidTargetError,
    UnknownPassError,
    UnknownTargetError,
)
from edgecompile.target import load_target, target_names, target_settings

EXTENDS = 'extends = "_defaults"\ndescription = "d"\nplatform = "linux"\narchitecture = "arm64"\n'


@pytest.fixture
def folder(targets_folder):
    for path in targets_folder.glob("[!_]*"):
        path.unlink()
    return targets_folder


@pytest.fixture
def write(folder):
    def write_target(text, name="mine", base=EXTENDS):
        (folder / f"{name}.toml").write_text(base + text)
        return name

    return write_target


def _error(name, kind=InvalidTargetError):
    with pytest.raises(kind) as caught:
        load_target(name)
    return caught.value


def test_tables_merge_key_by_key_and_lists_replace(write):
    write('passes = [{name = "remove-noops", reason = "r"}]\n[quantization]\nweight_bits = 7\n')
    target = load_target("mine")
    assert [entry.name for entry in target.passes] == ["remove-noops"]
    assert (target.quantization.weight_bits, target.quantization.scheme) == (7, "static-int8")
    assert target.formats == ("pte", "ptl", "onnx")
    assert target.emit["pte"].delegate == "xnnpack"
    assert target_names() == ("mine",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "other"


def test_origins_name_the_file_of_each_value(write):
    settings = target_settings(write("[quantization]\nweight_bits = 7\n"))
    said = {setting.name: (setting.value, setting.origin) for setting in settings}
    assert said["quantization.weight_bits"] == (7, "target mine.toml")
    assert said["platform"] == ("linux", "target mine.toml")
    assert said["quantization.scheme"] == ("static-int8", "target _defaults.toml")
    assert said["passes"][0][0] == "remove-noops"


def test_unknown_target_says_what_was_meant(folder, write):
    write("", "android-arm64")
    error = _error("android-arm46", UnknownTargetError)
    assert error.lines["hint"].startswith("did you mean 'android-arm64'?")
    _error("_defaults", UnknownTargetError)


def test_unknown_key_names_file_key_and_the_closest(write):
    error = _error(write("[quantization]\nweight_bit = 7\n"))
    assert error.message == "unknown key 'weight_bit'"
    assert error.lines["where"].endswith("mine.toml: quantization.weight_bit")
    assert error.lines["hint"] == "did you mean 'weight_bits'?"


@pytest.mark.parametrize(
    ("text", "where", "guess"),
    [
        ('passes = [{name = "remove-noops", reasn = "r", reason = "r"}]', "passes[0].reasn", "reason"),
        ("[emit.onnx]\nopsett = 3", "emit.onnx.opsett", "opset"),
        ("[validatoin]\ngoldens = 3", "validatoin", "validation"),
    ],
)
def test_unknown_key_at_any_depth(write, text, where, guess):
    error = _error(write(text))
    assert error.lines["where"].endswith(f"mine.toml: {where}")
    assert error.lines["hint"] == f"did you mean '{guess}'?"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[quantization]\nweight_bits = "8"', "quantization.weight_bits"),
        ("[quantization]\nweight_bits = 9", "quantization.weight_bits"),
        ("[quantization]\nweight_bits = 8.0", "quantization.weight_bits"),
        ("[validation]\nmax_sqnr_loss_db = nan", "validation.max_sqnr_loss_db"),
        ("[validation]\nmin_share_within_steps = 99.9", "validation.min_share_within_steps"),
        ("quantization = 3", "quantization"),
        ("passes = 1979-05-27", "passes"),
    ],
)
def test_values_are_strict(write, text, key):
    assert _error(write(text)).lines["where"].endswith(f"mine.toml: {key}")


def test_closest_choice_is_named(write):
    error = _error(write('[quantization]\nweight_granularity = "per-chanel"\n'))
    assert error.lines["found"] == '"per-chanel"'
    assert error.lines["hint"] == "did you mean 'per-channel'?"


def test_all_problems_are_shown_together(write, folder):
    (folder / "_defaults.toml").write_text((folder / "_defaults.toml").read_text() + "golden = 1\n")
    error = _error(write("[quantization]\nweight_bits = 9\n"), ConfigurationErrors)
    wheres = sorted(part.lines["where"].rpartition("/")[2] for part in error.errors)
    assert wheres == ["_defaults.toml: validation.golden", "mine.toml: quantization.weight_bits"]


def test_missing_key(write):
    error = _error(write("", base=EXTENDS.replace('description = "d"\n', "")))
    assert error.message == "the key 'description' is missing"


def test_unknown_pass_and_emitter_and_a_pass_listed_twice(write):
    entry = '{name = "%s", reason = "r"}'
    passes = ", ".join(entry % name for name in ("fold-batchnrm", "remove-noops", "remove-noops"))
    error = _error(write(f'passes = [{passes}]\n[emit.pte]\nemitter = "executorh"'), ConfigurationErrors)
    unknown, twice, emitter = error.errors
    assert isinstance(unknown, UnknownPassError)
    assert unknown.lines["where"].endswith("passes[0].name")
    assert "did you mean 'fold-batchnorm'?" in unknown.lines["hint"]
    assert "listed twice" in twice.message
    assert emitter.lines["hint"] == "did you mean 'executorch'?"


def test_extends_is_one_level_deep(write):
    write("")
    error = _error(write("", "deeper", EXTENDS.replace("_defaults", "mine")))
    assert "itself extends '_defaults'" in error.message
    error = _error(write("", "lost", EXTENDS.replace("_defaults", "_default")))
    assert "does not exist" in error.message


def test_broken_files(folder, write):
    assert "line 5" in _error(write("= 3")).lines["found"]
    (folder / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in _error("bytes").message
    (folder / "folder.toml").mkdir()
    assert "cannot read" in _error("folder").message


def test_name_is_not_a_key(write):
    assert "stem" in _error(write('name = "other"')).lines["hint"]
