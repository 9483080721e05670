"""The table `[pipeline]`: from the config file, checked against a model, and back from a manifest."""

from pathlib import Path

import pytest

from edgecompile.artifact import TensorEntry
from edgecompile.errors import ConfigurationErrors, EdgecompileError, InvalidConfigError
from edgecompile.pipeline import (
    ClassesOutput,
    PictureInput,
    Pipeline,
    fitted,
    labels_data,
    read_label_file,
    read_labels,
)
from edgecompile.settings import Options, resolve


def tensor(name, *shape, dtype="float32"):
    return TensorEntry(name=name, shape=shape, dtype=dtype, scale=None, zero_point=None)


INPUTS, OUTPUTS = [tensor("x", None, 3, 24, 32)], [tensor("output", 1, 10)]


def fit(picture=None, classes=None, labels=None, inputs=INPUTS, outputs=OUTPUTS):
    pipeline = Pipeline(picture=picture, classes=classes)
    return fitted(pipeline, inputs, outputs, label_count=labels, error=InvalidConfigError, where="here")


def test_all_that_was_left_unsaid():
    found = fit(PictureInput(mean=(0.5,)), ClassesOutput(top_k=20), labels=10)
    assert found.picture == PictureInput(input="x", mean=(0.5,) * 3, std=(1.0,) * 3)
    assert found.classes == ClassesOutput(output="output", top_k=10, labels="labels.txt")
    assert found.picture.preparation((None, 3, 24, 32)).width == 32
    assert fit(found.picture, found.classes, labels=10) == found


@pytest.mark.parametrize(
    ("picture", "inputs", "words"),
    [
        (PictureInput(), [tensor("x", 1, 3, None, 32)], "does not fit"),
        (PictureInput(), [tensor("x", 1, 3, 24, 32, dtype="uint8")], "does not fit"),
        (PictureInput(), [tensor("x", 4, 3, 24, 32)], "does not fit"),
        (PictureInput(channels="grey"), INPUTS, "does not fit"),
        (PictureInput(layout="nhwc"), INPUTS, "does not fit"),
        (PictureInput(), [*INPUTS, *INPUTS], "the model has 2 inputs"),
        (PictureInput(input="y"), INPUTS, "there is no input 'y'"),
        (PictureInput(short_side=31), INPUTS, "can be cropped"),
        (PictureInput(), [tensor("x", 1, 3, 24, 1 << 20)], "no size of a picture"),
        (PictureInput(mean=(0.5, 0.5)), INPUTS, "one number for each channel"),
    ],
)
def test_a_picture_that_does_not_fit(picture, inputs, words):
    with pytest.raises(InvalidConfigError, match=words):
        fit(picture, inputs=inputs)


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        ([tensor("output", 1, 10, 2)], None, "a value for each class"),
        ([tensor("output", 1, None)], None, "a value for each class"),
        (OUTPUTS, 9, "one label for each class"),
        ([], None, "the model has 0 outputs"),
    ],
)
def test_classes_that_do_not_fit(outputs, labels, words):
    with pytest.raises(InvalidConfigError, match=words):
        fit(classes=ClassesOutput(), labels=labels, outputs=outputs)


def test_all_that_does_not_fit_is_told():
    with pytest.raises(ConfigurationErrors) as caught:
        fit(PictureInput(input="y"), ClassesOutput(output="z"))
    assert len(caught.value.errors) == 2


def test_labels_there_and_back(tmp_path):
    names = ("tabby cat", "größe", "猫")
    assert read_labels(labels_data(names), InvalidConfigError, "here") == names
    assert read_labels(b"a\r\nb", InvalidConfigError, "here") == ("a", "b")
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        read_label_file(tmp_path / "absent.txt", InvalidConfigError, "here")


@pytest.mark.parametrize("data", [b"a\n\nb\n", b"\xff\n", b"", b"a\x1b[31m\n", "a\u2028b\n".encode()])
def test_what_are_no_labels(data):
    with pytest.raises(InvalidConfigError):
        read_labels(data, InvalidConfigError, "here")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").touch()

    def read(text):
        folder = tmp_path / "sub"
        folder.mkdir(exist_ok=True)
        (folder / "labels.txt").write_text("a\nb\n")
        (folder / "edgecompile.toml").write_text(f'target = ["linux-arm64"]\nprecision = "fp32"\n{text}')
        return resolve("net.py:make", Options(), Path("sub/edgecompile.toml"))

    return read


def test_from_the_config_file(config):
    settings = config('[pipeline.picture]\nstd = [2]\n[pipeline.classes]\nlabels = "labels.txt"\n')
    assert settings.pipeline.picture == PictureInput(std=(2.0,))
    assert settings.labels == ("a", "b")
    shown = {item.name: (item.value, item.origin) for item in settings.own_settings()}
    assert shown["pipeline"] == (("picture", "classes"), "config sub/edgecompile.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pipeline.pictures]", "did you mean 'picture'?"),
        ("[pipeline.picture]\nshort-side = 3", "did you mean 'short_side'?"),
        ('[pipeline.picture]\nchannels = "rbg"', "did you mean 'rgb'?"),
        ("[pipeline.picture]\nstd = [0]", "greater than 0"),
        ("[pipeline.picture]\nmean = [nan]", "pipeline.picture.mean"),
        ('[pipeline.classes]\nlabels = "absent.txt"', "the labels cannot be read"),
    ],
)
def test_mistakes_in_the_config_file(config, text, words):
    with pytest.raises(EdgecompileError) as caught:
        config(text)
    assert "error[invalid-config]" in caught.value.render()
    assert words in caught.value.render()
