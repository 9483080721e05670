import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompile.errors import (
    ConfigurationErrors,
    EdgecompileError,
    InvalidDynamicSizeError,
    InvalidQuantizationError,
    UnsupportedPrecisionError,
)
from edgecompile.settings import Options, resolve
from edgecompile.target import QuantizationSettings, load_target

FP32 = Options(target=("linux-arm64",), precision="fp32")


@pytest.fixture
def model(tmp_path, targets_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("raise AssertionError('resolving runs no user code')")
    (tmp_path / "data").mkdir()
    return "net.py:make"


def _codes(*arguments):
    with pytest.raises(EdgecompileError) as caught:
        resolve(*arguments)
    error = caught.value
    return [part.code for part in (error.errors if isinstance(error, ConfigurationErrors) else [error])]


def test_defaults(model):
    settings = resolve(model, Options(target=("linux-arm64",), calibration="data"))
    assert (settings.precision, settings.output, settings.formats) == ("int8", Path("build"), ())
    origins = {setting.name: setting.origin for setting in settings.own_settings()}
    assert origins["precision"] == origins["evaluation"] == "default"
    assert (origins["model"], origins["target"]) == ("argument", "flag --target")


def test_flag_wins_over_config_over_default(model, tmp_path):
    config = tmp_path / "sub" / "edgecompile.toml"
    config.parent.mkdir()
    (config.parent / "cal").mkdir()
    config.write_text(
        'target = ["linux-arm64", "ios-arm64"]\nprecision = "fp32"\ndynamic-batch = true\n'
        'calibration = "cal"\nevaluation = "../net.py:data"\noutput = "out"\n'
    )
    settings = resolve(model, Options(precision="int8"), config)
    assert settings.targets == ("linux-arm64", "ios-arm64")
    assert (settings.precision, settings.dynamic_batch) == ("int8", True)
    assert settings.output == config.parent / "out"
    assert settings.calibration == str(config.parent / "cal")
    assert settings.origins["precision"] == "flag --precision"
    assert settings.origins["dynamic-batch"] == f"config {config}"
    assert resolve(model, Options(dynamic_batch=False, calibration="data"), config).dynamic_batch is False


def test_config_leaves_modules_and_absolute_paths_alone(model, tmp_path):
    config = tmp_path / "sub.toml"
    config.write_text(f'calibration = "a_package.data:samples"\noutput = "{tmp_path}/out"\n')
    settings = resolve(model, FP32, Path("sub.toml"))
    assert settings.calibration == "a_package.data:samples"
    assert settings.output == tmp_path / "out"


def test_twice_named_is_once_built(model):
    settings = resolve(model, Options(target=("ios-arm64",) * 2, format=("pte", "pte"), precision="fp32"))
    assert (settings.targets, settings.formats) == (("ios-arm64",), ("pte",))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('tagret = ["x"]', "did you mean 'target'?"),
        ("dynamic_batch = true", "did you mean 'dynamic-batch'?"),
        ('precision = "int4"', "did you mean 'int8'?"),
        ('target = "x"', "expected"),
        ("= 3", "line 1"),
    ],
)
def test_config_is_strict(model, tmp_path, text, line):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(EdgecompileError) as caught:
        resolve(model, FP32, tmp_path / "c.toml")
    assert caught.value.code == "invalid-config"
    assert line in caught.value.render()


def test_everything_wrong_is_shown_at_once(model, targets_folder, tmp_path):
    text = (targets_folder / "_defaults.toml").read_text()
    (targets_folder / "broken.toml").write_text(text.replace('"fold-constants"', '"fold-constant"'))
    flags = Options(
        target=("linux-arm46", "linux-arm64", "broken"), format=("tflite",), evaluation="no", output="net.py"
    )
    codes = _codes("nett.py:make", flags, tmp_path / "missing.toml")
    assert sorted(codes) == sorted(
        [
            "invalid-config",
            "model-not-found",
            "unknown-target",
            "unknown-format",
            *["invalid-target"] * 3,  # no description, platform, architecture
            "calibration-required",
            "unreadable-data",
            "output-not-writable",
        ]
    )


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights", "fp32"])
def test_only_static_int8_needs_calibration(model, precision):
    assert resolve(model, Options(target=("linux-arm64",), precision=precision)).precision == precision


def test_a_format_that_cannot_take_the_precision(model, targets_folder):
    flags = Options(target=("linux-arm64",), precision="int4-weights")
    with pytest.raises(UnsupportedPrecisionError) as caught:
        resolve(model, flags)
    text = caught.value.render()
    assert "pte, ptl cannot take the precision 'int4-weights' on linux-arm64" in text
    assert "pte: int8, int8-dynamic, int8-weights, fp32" in text
    assert "build what can with `--format onnx`" in text
    assert resolve(model, replace(flags, format=("onnx",))).formats == ("onnx",)
    path = targets_folder / "linux-arm64.toml"
    path.write_text(path.read_text() + '[emit.onnx]\nprecisions = ["int8"]\n')
    with pytest.raises(UnsupportedPrecisionError, match="pte, ptl, onnx cannot") as caught:
        resolve(model, flags)
    assert "choose another precision or target" in caught.value.render()


def test_unknown_pass_of_a_target(model, targets_folder):
    path = targets_folder / "_defaults.toml"
    path.write_text(path.read_text().replace('"fold-constants"', '"fold-constant"'))
    flags = Options(target=("linux-arm64", "ios-arm64"), precision="fp32")
    assert _codes(model, flags) == ["unknown-pass"], "said once, though two targets share the file"


def test_no_target_and_no_model(model):
    assert _codes("net.onnx", Options(precision="fp32")) == ["invalid-model-spec", "usage"]
    assert _codes("net.pt2", FP32) == ["model-not-found"]


def test_plan_names_the_file_of_every_target_setting(model):
    plan = {setting.name: setting for setting in resolve(model, FP32).plan()}
    bits = plan["linux-arm64: quantization.weight_bits"]
    assert (bits.value, bits.origin) == (8, "target _defaults.toml")
    assert plan["linux-arm64: platform"].origin == "target linux-arm64.toml"
    assert "remove-noops" in plan["linux-arm64: passes"].value


def test_the_device_says_the_target(model):
    settings = resolve(model, Options(device="pixel-6", precision="fp32"))
    assert (settings.targets, settings.device) == (("android-arm64",), "pixel-6")
    said = {setting.name: (setting.value, setting.origin) for setting in settings.own_settings()}
    assert said["target"] == (("android-arm64",), "device pixel-6")
    assert said["device"] == ("pixel-6", "flag --device")
    same = resolve(model, Options(device="pixel-6", target=("android-arm64",), precision="fp32"))
    assert same.origins["target"] == "flag --target"


def test_a_target_that_contradicts_the_device(model):
    for target in (("ios-arm64",), ("android-arm64", "ios-arm64")):
        flags = Options(device="pixel-6", target=target, precision="fp32")
        assert _codes(model, flags) == ["device-target-mismatch"]


def test_a_device_of_the_command_line_wins_over_a_target_of_the_config(model, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('target = ["ios-arm64"]\n')
    settings = resolve(model, Options(device="pixel-6", precision="fp32"), config)
    assert (settings.targets, settings.origins["target"]) == (("android-arm64",), "device pixel-6")
    config.write_text('device = "pixel-6"\n')
    assert resolve(model, Options(precision="fp32"), config).targets == ("android-arm64",)
    assert _codes(model, FP32, config) == ["device-target-mismatch"]
    config.write_text('device = "pixel-6"\ntarget = ["ios-arm64"]\n')
    assert _codes(model, Options(precision="fp32"), config) == ["device-target-mismatch"]


def _quantized(model, quantization, config=None):
    return resolve(
        model, Options(target=("linux-arm64",), calibration="data", quantization=quantization), config
    )


def test_quantization_comes_key_by_key_from_target_config_and_flags(model, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[quantization]\nweight_bits = 7\nactivation_percentile = 100\n")
    settings = _quantized(model, {"weight_bits": 6, "activation_observer": "percentile"}, config)
    own = {setting.name: (setting.value, setting.origin) for setting in settings.own_settings()}
    assert own["quantization.weight_bits"] == (6, "flag --quantization")
    assert own["quantization.activation_percentile"] == (100, f"config {config}")
    assert "quantization.scheme" not in own
    plan = {setting.name: (setting.value, setting.origin) for setting in settings.plan()}
    assert plan["linux-arm64: quantization.weight_bits"] == (6, "flag --quantization")
    assert plan["linux-arm64: quantization.activation_percentile"] == (100, f"config {config}")
    assert plan["linux-arm64: quantization.calibration_samples"] == (128, "target _defaults.toml")
    resolved = load_target("linux-arm64", settings.overrides).quantization
    assert (resolved.weight_bits, resolved.activation_observer) == (6, "percentile")
    assert resolved == dataclasses.replace(
        load_target("linux-arm64").quantization,
        weight_bits=6,
        activation_observer="percentile",
        activation_percentile=100,
    )


@pytest.mark.parametrize(
    ("key", "value", "expected", "guess"),
    [
        ("activation_observer", "minmax", "'min-max', 'moving-average', 'percentile'", "min-max"),
        ("weight_observer", "entropy", "'min-max' or 'mse'", None),
        ("activation_symmetry", "symetric", "'affine' or 'symmetric'", "symmetric"),
        ("power_of_two_scales", "yes", "boolean", None),
        ("weight_bits", 9, "less than or equal to 8", None),
        ("weight_bits", 7.5, "integer", None),
        ("activation_percentile", 49.9, "greater than or equal to 50", None),
        ("activation_percentile", 100.1, "less than or equal to 100", None),
        ("calibration_samples", [3], "integer", None),
    ],
)
def test_a_wrong_value_of_quantization_says_what_is_expected(model, key, value, expected, guess):
    with pytest.raises(InvalidQuantizationError) as caught:
        _quantized(model, {key: value})
    lines = caught.value.lines
    assert expected in lines["expected"] and lines["found"] == json.dumps(value)
    assert lines["where"] == f"flag --quantization: quantization.{key}"
    assert lines.get("hint") == (f"did you mean {guess!r}?" if guess else None)


def test_an_unknown_key_of_quantization_lists_those_that_exist(model, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[quantization]\nweight_bit = 7\n")
    with pytest.raises(InvalidQuantizationError) as caught:
        _quantized(model, None, config)
    lines = caught.value.lines
    assert lines["where"] == f"config {config}: quantization.weight_bit"
    assert lines["known"].split(", ") == [item.name for item in dataclasses.fields(QuantizationSettings)]
    assert lines["hint"] == "did you mean 'weight_bits'?"


def test_all_wrong_quantization_is_shown_once_for_all_targets(model, tmp_path):
    (tmp_path / "c.toml").write_text("quantization = 3\n")
    targets = ("linux-arm64", "ios-arm64")
    flags = Options(target=targets, quantization={"weight_bits": "7", "scale": 1})
    assert _codes(model, flags, tmp_path / "c.toml") == [
        "invalid-config",
        "invalid-quantization",
        "invalid-quantization",
        "calibration-required",
    ]


def test_an_unknown_device_is_the_only_problem(model):
    assert _codes(model, Options(device="pixel-66", precision="fp32")) == ["unknown-device"]


def test_dynamic_sizes_of_a_config_file_and_of_flags(model, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('target = ["linux-x86-64"]\nprecision = "fp32"\n[dynamic]\n"x:1" = "length:1..8"\n')
    settings = resolve(model, Options(), config)
    assert [str(size) for size in settings.dynamic] == ["x:1=length:1..8"]
    assert settings.origins["dynamic"] == f"config {config}"
    flags = Options(dynamic={"x:2": "width:4..9"})
    assert [str(size) for size in resolve(model, flags, config).dynamic] == ["x:2=width:4..9"]
    with pytest.raises(InvalidDynamicSizeError, match="not understood"):
        resolve(model, Options(dynamic={"x": "4..9"}), config)
