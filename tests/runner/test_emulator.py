"""The arm64 runners, on emulated cores."""

from __future__ import annotations

import pytest
import torch

from edgecompile.connections.emulator import cpuinfo_of
from edgecompile.connections.host import Host
from edgecompile.errors import EngineLibrariesMissingError, RunnerTimedOutError, UnknownCpuError


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_int8_pte_equals_the_host_bit_for_bit(made, emulator, host_tools, cpu):
    item = made["int8.pte"]
    here = item.run_on(Host())
    there = item.run_on(emulator(cpu), expected=here.outputs)
    assert there.goldens_passed
    for got, wanted in zip(there.outputs, here.outputs, strict=True):
        assert all(map(torch.equal, got, wanted))
    assert there.connection == f"emulator ({cpu})"
    assert ("dotprod" in there.report.cpu.features) == (cpu == "cortex-a76")


def test_int8_onnx_equals_exact_sums(made, emulator):
    item = made["int8.onnx"]
    there = item.run_on(emulator())
    for got, wanted in zip(there.outputs, item.outputs(precise=True), strict=True):
        assert all(map(torch.equal, got, wanted))


@pytest.mark.parametrize("name", ["fp32.pte", "fp32.onnx"])
def test_float_is_close_to_the_host(made, emulator, name):
    item = made[name]
    assert item.run_on(emulator(), expected=item.outputs(), min_sqnr_db=120).goldens_passed


def test_an_emulated_runner_is_killed_when_its_time_is_over(made, emulator):
    with pytest.raises(RunnerTimedOutError):
        made["int8.pte"].run_on(emulator(), warmup=1_000_000, timeout_seconds=3)


def test_an_unknown_core_is_refused_with_those_that_qemu_knows(emulator):
    with pytest.raises(UnknownCpuError) as error:
        emulator("cortex-a77")
    assert "cortex-a76" in error.value.lines["known"]
    assert "did you mean 'cortex-a7" in error.value.lines["hint"]
    with pytest.raises(UnknownCpuError):
        emulator("max")


def test_the_root_shows_the_wanted_core(emulator):
    with emulator("cortex-a53") as connection:
        assert (connection.root / "proc/cpuinfo").read_text() == cpuinfo_of("cortex-a53")
        assert (connection.root / "lib/libc.so.6").exists()
    with emulator("cortex-a53", cpuinfo="processor\t: 0\n") as connection:
        assert (connection.root / "sys/devices/system/cpu/present").read_text() == "0\n"


def test_torchscript_lite_has_no_arm64_library(made, emulator):
    with pytest.raises(EngineLibrariesMissingError, match="torchscript-lite"):
        made["int8.ptl"].run_on(emulator())
