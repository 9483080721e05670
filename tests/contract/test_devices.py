"""Every file in device_profiles/ holds what a device profile promises."""

import tomllib

import pytest

from edgecompile import shipped
from edgecompile.device import EMULATED_ISA, INFERRED_FROM_PART, device_names, is_sourced, load_device
from edgecompile.target import load_target

ARMV8_0 = frozenset()
ARMV8_2 = frozenset({"fp16", "dotprod"})
ARMV9 = ARMV8_2 | {"i8mm", "bf16", "sve2"}
ARM_PARTS = {
    **dict.fromkeys((0xD03, 0xD08), ARMV8_0),  # A53, A72
    **dict.fromkeys((0xD05, 0xD0B, 0xD41, 0xD42, 0xD44), ARMV8_2),  # A55, A76, A78, A78AE, X1
    # A510, A520, A710, A715, A720, X2, X3, X4
    **dict.fromkeys((0xD46, 0xD80, 0xD47, 0xD4D, 0xD81, 0xD48, 0xD4E, 0xD82), ARMV9),
}
OFFLINE = ("host",)


def test_there_are_devices_of_every_kind():
    targets = {load_device(name).target for name in device_names()}
    assert targets == {"android-arm64", "ios-arm64", "linux-arm64", "linux-x86-64"}
    assert len(device_names()) >= 15
    assert {"host", "pixel-6", "raspberry-pi-4"} <= set(device_names())


@pytest.mark.parametrize(
    "path", sorted(shipped.device_profiles_folder().glob("*")), ids=lambda path: path.name
)
def test_only_toml_lies_in_the_folder(path):
    assert path.suffix == ".toml"
    tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", device_names())
def test_device(name):
    device = load_device(name)
    assert device.name == name
    assert device.description and device.soc
    load_target(device.target)
    assert device.clusters or name in OFFLINE


@pytest.mark.parametrize("name", device_names())
def test_every_figure_has_a_source(name):
    device = load_device(name)
    numbers = [figure for figure in device.figures() if isinstance(figure.value, int | float)]
    assert numbers and all(is_sourced(figure) for figure in numbers)
    for figure in (figure for figure in device.figures() if is_sourced(figure)):
        source = figure.origin
        assert source == "unsourced" or len(source.removeprefix("derived: ")) > 15, figure
        assert "," not in source or source.startswith("derived: "), "one source, or how it follows"


@pytest.mark.parametrize("name", device_names())
def test_default_threads_follow_their_rule(name):
    device = load_device(name)
    assert device.provenance["threads"].startswith("derived: ")
    if name in OFFLINE:
        assert device.threads == 1
        return
    cores = sum(cluster.count for cluster in device.clusters)
    if len(device.clusters) > 1:
        cores -= min(device.clusters, key=lambda cluster: cluster.clock_ghz).count
    assert device.threads == min(cores, 4)


@pytest.mark.parametrize("name", device_names())
def test_features_are_those_of_the_parts(name):
    device = load_device(name)
    for cluster in device.clusters + device.emulator.cpuinfo:
        assert set(device.isa) <= set(cluster.isa) or cluster in device.emulator.cpuinfo
        if cluster.implementer == 0x41:
            assert set(cluster.isa) == ARM_PARTS[cluster.part], cluster
        # Engines take an r0 Cortex-A55 for one without dot products.
        assert cluster.part != 0xD05 or cluster.variant >= 1


@pytest.mark.parametrize("name", sorted(set(device_names()) - set(OFFLINE)))
def test_the_emulated_core_executes_the_kernels_of_the_parts_that_it_shows(name):
    """An engine trusts a part number: an A55 shown on an emulated A53 dies with SIGILL."""
    device = load_device(name)
    able = EMULATED_ISA[device.emulator.cpu]
    for cluster in device.shown_clusters:
        needed = ARM_PARTS[cluster.part] if cluster.implementer == 0x41 else set(cluster.isa)
        assert needed & INFERRED_FROM_PART <= able, cluster
    assert ("asimddp" in device.cpuinfo_text()) == ("dotprod" in able)


@pytest.mark.parametrize("name", sorted(set(device_names()) - set(OFFLINE)))
def test_cpuinfo_shows_all_cores(name):
    device = load_device(name)
    processors = device.cpuinfo_text().strip().split("\n\n")
    assert len(processors) == sum(cluster.count for cluster in device.clusters)
    for number, text in enumerate(processors):
        rows = dict(line.replace("\t", "").split(": ") for line in text.splitlines())
        assert rows["processor"] == str(number)
        assert rows["CPU architecture"] == "8"
        assert int(rows["CPU implementer"], 16) in (0x41, 0x51)
        assert int(rows["CPU part"], 16) in {cluster.part for cluster in device.shown_clusters}
