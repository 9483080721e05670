import re
import sys

import numpy as np
import pytest
from PIL import Image

from edgecompile.dataset import TensorSpec, check_data, load_dataset
from edgecompile.errors import (
    DataMismatchError,
    EmptyDataError,
    NotFiniteDataError,
    UnreadableDataError,
)

IMAGE = (TensorSpec(name="image", shape=(None, 3, 4, 6), dtype="float32"),)
PAIR = (
    TensorSpec(name="tokens", shape=(1, 5), dtype="int64"),
    TensorSpec(name="mask", shape=(1, 5), dtype="float32"),
)


def _ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


@pytest.fixture
def function(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body):
        path = tmp_path / "data.py"
        path.write_text(f"import numpy as np\nimport torch\ndef samples():\n    {body}\n")
        return f"{path}:samples"

    return write


def _error(kind, spec, inputs=IMAGE):
    with pytest.raises(kind) as caught:
        load_dataset(spec, inputs)
    return caught.value


def test_npz_of_one_input_by_any_name_with_labels(npz):
    data = load_dataset(npz(arr_0=_ramp(3, 3, 4, 6), labels=np.array([2, 0, 1])), IMAGE)
    assert [sample.label for sample in data.samples] == [2, 0, 1]
    assert [tuple(sample.inputs[0].shape) for sample in data.samples] == [(1, 3, 4, 6)] * 3
    assert data.samples[1].inputs[0].flatten()[0] == 72


def test_npz_of_several_inputs_is_matched_by_name(npz):
    spec = npz(mask=np.ones((2, 1, 5), np.float32), tokens=np.ones((2, 5), np.int64))
    sample = load_dataset(spec, PAIR).samples[0]
    assert [tuple(tensor.shape) for tensor in sample.inputs] == [(1, 5), (1, 5)]
    assert str(sample.inputs[0].dtype) == "torch.int64"
    assert sample.label is None


def test_limit_spreads_over_what_is_sorted_by_class(npz):
    spec = npz(x=_ramp(8, 3, 4, 6), labels=np.repeat(np.arange(4), 2))
    assert [sample.label for sample in load_dataset(spec, IMAGE, limit=4).samples] == [0, 1, 2, 3]
    assert len(load_dataset(spec, IMAGE, limit=20).samples) == 8


def test_npz_names_must_match(npz):
    spec = npz(mask=np.ones((2, 5), np.float32), token=np.ones((2, 5), np.int64))
    error = _error(DataMismatchError, spec, PAIR)
    assert error.lines["expected"] == "tokens, mask"
    assert error.lines["hint"] == "rename 'token' to 'tokens'"
    assert _error(DataMismatchError, npz(labels=np.zeros(3))).lines["found"] == "no array"


def test_npz_arrays_must_be_equally_long(npz):
    spec = npz(x=_ramp(3, 3, 4, 6), labels=np.zeros(2, np.int64))
    assert _error(DataMismatchError, spec).lines["found"] == "x [3, 3, 4, 6], labels [2]"
    assert "same number" in _error(DataMismatchError, npz(x=np.float32(1))).message


def test_shape_and_dtype_must_match_and_say_where(npz):
    error = _error(DataMismatchError, npz(x=_ramp(2, 4, 6, 3)))
    assert error.lines["where"].endswith("data.npz, sample 0")
    assert (error.lines["expected"], error.lines["found"]) == (
        "float32 [any, 3, 4, 6]",
        "float32 [1, 4, 6, 3]",
    )
    error = _error(DataMismatchError, npz(x=np.zeros((2, 3, 4, 6))))
    assert error.lines["hint"] == "convert it to float32"
    assert "not a numeric array" in _error(DataMismatchError, npz(x=np.array(["a"]))).message


def test_labels_must_be_integers(npz):
    spec = npz(x=_ramp(1, 3, 4, 6), labels=np.array([0.5]))
    assert _error(DataMismatchError, spec).lines["found"] == "float64 []"


def test_nan_and_infinity(npz):
    array = _ramp(2, 3, 4, 6)
    array[1, 0, 0, :2] = np.nan, np.inf
    error = _error(NotFiniteDataError, npz(x=array))
    assert error.lines["where"].endswith("sample 1")
    assert error.lines["found"] == "2 of 72 elements"


def test_empty(npz, tmp_path, function):
    assert "holds no sample" in _error(EmptyDataError, npz(x=_ramp(0, 3, 4, 6))).message
    (tmp_path / "empty").mkdir()
    _error(EmptyDataError, str(tmp_path / "empty"))
    _error(EmptyDataError, function("return []"))


def test_damaged_files(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 truncated")
    _error(UnreadableDataError, str(tmp_path / "data.npz"))
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"no")
    assert "a.npy" in _error(UnreadableDataError, str(folder)).message
    (folder / "a.npy").unlink()
    (folder / "a.png").write_bytes(b"no")
    assert "UnidentifiedImageError" in _error(UnreadableDataError, str(folder)).lines["found"]


def test_pickles_are_refused(npz):
    error = _error(UnreadableDataError, npz(x=np.array([{}], dtype=object)))
    assert "allow_pickle" in error.lines["found"]


def test_folder_of_npy_is_sorted(tmp_path):
    for index in (2, 0, 1):
        np.save(tmp_path / f"{index}.npy", np.full((3, 4, 6), index, np.float32))
    (tmp_path / "README").write_text("ignored")
    data = load_dataset(str(tmp_path), IMAGE)
    assert [float(sample.inputs[0].max()) for sample in data.samples] == [0, 1, 2]
    assert "one input a file" in _error(DataMismatchError, str(tmp_path), PAIR).message


def test_folder_of_images_is_scaled_cropped_and_normalized(tmp_path):
    # 20x10 red with blue sides: covering 6x4 keeps the full height and crops the sides away.
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 2, 10))
    image.paste("blue", (18, 0, 20, 10))
    image.save(tmp_path / "a.PNG")
    Image.new("L", (5, 9), 51).save(tmp_path / "b.png")
    first, second = (sample.inputs[0] for sample in load_dataset(str(tmp_path), IMAGE).samples)
    assert tuple(first.shape) == (1, 3, 4, 6)
    assert (first[0, 0] > 0.9).all() and (first[0, 2] < 0.1).all()
    assert np.allclose(second.numpy(), 0.2)
    gray = (TensorSpec(name="x", shape=(1, 1, 2, 2), dtype="float32"),)
    assert tuple(load_dataset(str(tmp_path), gray).samples[0].inputs[0].shape) == (1, 1, 2, 2)


@pytest.mark.parametrize(("shape", "dtype"), [((1, 3, None, 6), "float32"), ((1, 2, 4, 6), "float32")])
def test_images_need_an_image_input(tmp_path, shape, dtype):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    _error(DataMismatchError, str(tmp_path), (TensorSpec(name="x", shape=shape, dtype=dtype),))


def test_images_and_arrays_do_not_mix(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", _ramp(3, 4, 6))
    assert "both" in _error(UnreadableDataError, str(tmp_path)).message


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ("yield torch.ones(3, 4, 6); yield np.ones((1, 3, 4, 6), np.float32)", [None, None]),
        ("return [(torch.ones(1, 3, 4, 6), 3), ((torch.ones(3, 4, 6),), np.int64(4))]", [3, 4]),
        ("yield [torch.ones(1, 3, 4, 6), torch.tensor([5])]", [5]),
        ("yield torch.ones(3, 4, 6, requires_grad=True)", [None]),
    ],
)
def test_function(function, body, labels):
    data = load_dataset(function(body), IMAGE)
    assert [sample.label for sample in data.samples] == labels
    assert all(tuple(sample.inputs[0].shape) == (1, 3, 4, 6) for sample in data.samples)


def test_function_of_two_inputs(function):
    pair = "(torch.ones(5, dtype=torch.int64), torch.ones(5))"
    data = load_dataset(function(f"yield {pair}; yield {pair}, 7"), PAIR)
    assert [sample.label for sample in data.samples] == [None, 7]


def test_function_is_read_only_up_to_the_limit(function):
    body = "yield from (torch.ones(3, 4, 6) for _ in iter(int, 1))"
    assert len(load_dataset(function(body), IMAGE, limit=3).samples) == 3


def test_a_batch_is_not_a_sample(function):
    error = _error(DataMismatchError, function("yield torch.ones(8, 3, 4, 6)"))
    assert error.lines["hint"] == "give one sample at a time, not a batch"


def test_a_sample_has_the_number_of_inputs(function):
    error = _error(DataMismatchError, function("yield (torch.ones(3, 4, 6),) * 3"))
    assert error.lines["found"] == "3"


@pytest.mark.parametrize("body", ["yield 1 / 0", "return 3", "raise SystemExit(2)"])
def test_function_that_raises_shows_its_line(function, body):
    error = _error(UnreadableDataError, function(body))
    assert "raised" in error.message
    if "return" not in body:
        assert re.search(r"data\.py:4$", error.lines["where"])


def test_function_that_does_not_exist(function):
    spec = function("return []")
    error = _error(UnreadableDataError, spec.replace(":samples", ":sample"))
    assert "did you mean" in error.lines["hint"]


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.npz", "a:b c", "nowhere.py:f"])
def test_check_data_is_cheap_and_says_what_it_takes(spec):
    with pytest.raises(UnreadableDataError):
        check_data(spec)


def test_check_data_names_the_forms(tmp_path):
    (tmp_path / "data.csv").write_text("1")
    with pytest.raises(UnreadableDataError) as caught:
        check_data(str(tmp_path / "data.csv"))
    assert "a .npz file" in caught.value.lines["expected"]
    assert caught.value.lines["found"] == "a file of another form"
