"""What the zoo's lines say: how much of it builds and is right, is delegated, and computes in integers."""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from edgecompile.quantize.annotate import operators_with_rules

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

from zoo_networks import listed  # noqa: E402
from zoo_table import FORMATS, SOURCES, passes, source_of, table  # noqa: E402

LINES = [json.loads(line) for line in (BENCHMARKS / "zoo_results.jsonl").read_text().splitlines()]
BUILT = [line for line in LINES if not line["status"]]
# How QNNPACK says that it cannot: with these scales it has no integer kernel.
BEYOND_ITS_SCALES = "QNNPACK's kernel takes no input whose scale is 256 times the output's"
SCHEMAS = {schema.name for schema in torch._C._jit_get_all_schemas()}
BETWEEN = "computes in float between dequantize and quantize"

# Operators with a rule that compute between dequantize and quantize all the same, by the reason.
KEPT_IN_FLOAT = {
    # A channel of what it gives may be a hundred times another: one scale for all loses the small ones.
    "mul": "one operand is a factor for each channel",
}
# Operators that PyTorch has kernels of quantized tensors for, and why a `.ptl` does not take them.
NOT_TAKEN_BY_PTL = {
    "mean": "it gives the output its input's scale",
    "gelu": "it computes in float inside, and gives the output its input's scale",
    "softmax": "it computes in float inside",
    "matmul": "it computes in float inside, where PyTorch is built without ruy, as its wheels are",
    "upsample_bilinear2d": "it rounds as no other engine's does",
    "adaptive_avg_pool2d": "it gives the output its input's scale, and no other engine has one",
}
# Operators that ONNX Runtime has no integer kernel for, and what they are part of.
WITHOUT_KERNEL_IN_ONNXRUNTIME = {
    "HardSigmoid": "a gate, or the first half of HardSwish",
    "Tanh": "a gate, or the end of a network",
    "Elu": "an activation",
    "LSTM": "over a whole sequence: it has one that quantizes at run time alone",
    "Mul": "the second half of HardSwish, whose first has none: one input is in float",
    "InstanceNormalization": "a group norm",
    "ReduceMean": "a mean over other axes than height and width",
}


def of_format(name, source):
    return [line for line in LINES if line["format"] == name and source_of(line["model"]) == source]


def operators_in_float(form):
    """Return how often an artifact's operators compute in float between dequantize and quantize."""
    found = Counter()
    for line in BUILT:
        for row, count in line["outside"].items() if line["format"] == form else ():
            if BETWEEN in row and BEYOND_ITS_SCALES not in row:
                found[row.split(":")[0]] += count
    return found


def has_quantized_kernel(operator):
    """Tell whether PyTorch has a kernel of quantized tensors, of this operator or one that it is made of."""
    names = [f"aten::{operator}", f"aten::_{operator}", f"aten::{operator}.dim"]
    is_registered = torch._C._dispatch_has_kernel_for_dispatch_key
    return f"quantized::{operator}" in SCHEMAS or any(
        torch._C._dispatch_has_kernel(name) and is_registered(name, "QuantizedCPU") for name in names
    )


def test_every_network_of_the_list_has_a_line_for_each_format():
    formats = defaultdict(set)
    for line in LINES:
        formats[line["model"]].add(line["format"])
    assert set(formats) == set(listed())
    assert len([name for name in formats if source_of(name) == "timm"]) >= 150
    assert all(found == set(FORMATS) for found in formats.values())
    assert len(LINES) == len(formats) * len(FORMATS)


def test_the_table_is_of_these_lines():
    page = (BENCHMARKS.parent / "docs/zoo-table.md").read_text()
    assert page.strip() == table(LINES).strip()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("form", FORMATS)
def test_most_build_run_and_are_right(form, source):
    lines = of_format(form, source)
    share = 0.98 if (form, source) == ("pte", "timm") else 0.95
    assert sum(map(passes, lines)) >= share * len(lines)


def test_what_fails_says_so():
    assert {line["status"] for line in LINES} <= {0, 3}
    assert all(line["error"].startswith("error[") for line in LINES if line["status"])


@pytest.mark.parametrize("source", SOURCES)
def test_most_are_one_delegate_call_and_the_others_say_why(source):
    lines = [line for line in of_format("pte", source) if not line["status"]]
    whole = [line for line in lines if line["delegate_calls"] == 1]
    assert len(whole) >= 0.9 * len(lines)
    assert all(line["outside"] for line in lines if line not in whole)


def test_no_pair_around_an_operator_with_a_rule():
    ruled = {operator.__name__.split(".")[0] for operator in operators_with_rules()}
    for line in BUILT:
        for operator in ruled & set(line.get("pairs", {})):
            kept = line["float"].get(f"{operator}: {KEPT_IN_FLOAT.get(operator)}", 0)
            assert line["pairs"][operator] <= kept, (line["model"], operator)


def test_no_pair_in_a_ptl_around_an_operator_that_pytorch_has_a_kernel_for():
    found = operators_in_float("ptl")
    assert {operator for operator in found if has_quantized_kernel(operator)} <= set(NOT_TAKEN_BY_PTL)
    assert all(map(has_quantized_kernel, NOT_TAKEN_BY_PTL))


def test_no_pair_in_an_onnx_around_an_operator_that_onnxruntime_has_a_kernel_for():
    assert set(operators_in_float("onnx")) <= set(WITHOUT_KERNEL_IN_ONNXRUNTIME)
