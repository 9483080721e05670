import json

import pytest

from edgecompile import shipped
from edgecompile.cli.main import main
from edgecompile.device import device_names, load_device
from edgecompile.errors import ConfigurationErrors, InvalidDeviceError, UnknownDeviceError, UnknownTargetError

PHONE = """\
description = "d"
soc = "s"
target = "android-arm64"
engine = "executorch"
threads = 2
channel_multiple = 8
[[clusters]]
core = "Little"
count = 2
clock_ghz = 1.5
isa = ["fp16", "dotprod"]
implementer = 0x41
part = 0xd05
variant = 2
[[clusters]]
core = "Big"
count = 1
clock_ghz = 2.5
isa = ["dotprod", "fp16", "i8mm"]
implementer = 0x41
part = 0xd4d
[emulator]
cpu = "cortex-a76"
[provenance]
threads = "derived: half"
channel_multiple = "unsourced"
"clusters.count" = "a page"
"clusters.clock_ghz" = "unsourced"
"clusters[1].clock_ghz" = "another page"
"clusters.isa" = "a table"
"clusters.implementer" = "a table"
"clusters.part" = "a table"
"clusters.variant" = "a table"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "device_profiles_folder", lambda: tmp_path)

    def write_device(*changes, name="phone"):
        text = PHONE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / f"{name}.toml").write_text(text)
        return name

    return write_device


def _error(name, kind=InvalidDeviceError):
    with pytest.raises(kind) as caught:
        load_device(name)
    return caught.value


def test_device(write):
    device = load_device(write())
    assert device_names() == ("phone",)
    assert device.isa == ("fp16", "dotprod"), "what all cores have"
    figures = {figure.name: (figure.value, figure.origin) for figure in device.figures()}
    assert figures["clusters[0].clock_ghz"] == (1.5, "unsourced")
    assert figures["clusters[1].clock_ghz"] == (2.5, "another page")
    assert figures["soc"] == ("s", "")
    assert "memory.type" not in figures
    assert device.to_dict()["isa"] == device.isa


def test_cpuinfo(write):
    device = load_device(write())
    little, again, big = device.cpuinfo_text().strip().split("\n\n")
    assert little == (
        "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 fphp asimdhp asimddp\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x2\nCPU part\t: 0xd05\nCPU revision\t: 0"
    )
    assert again == little.replace(": 0\nFeatures", ": 1\nFeatures")
    assert "CPU variant\t: 0x0\nCPU part\t: 0xd4d" in big
    assert device.cpuinfo_text("Big").strip() == big.replace("processor\t: 2", "processor\t: 0")
    with pytest.raises(InvalidDeviceError, match="shows no core 'Huge'"):
        device.cpuinfo_text("Huge")


def test_a_core_without_part_number_needs_another_to_show(write):
    without = ("implementer = 0x41\npart = 0xd4d\n", "")
    assert "no implementer and part" in _error(write(without)).message
    stand_in = '[[emulator.cpuinfo]]\ncore = "Other"\ncount = 3\nimplementer = 0x41\npart = 0xd0b\n'
    sources = '"emulator.cpuinfo.%s" = "a table"\n'
    sources = "".join(sources % key for key in ("count", "implementer", "part"))
    device = load_device(write(without, ("[provenance]\n", f"{stand_in}[provenance]\n{sources}")))
    assert device.cpuinfo_text().count("0xd0b") == 3


def test_a_device_that_is_not_emulated_shows_nothing(write):
    device = load_device(write(('[emulator]\ncpu = "cortex-a76"\n', "")))
    with pytest.raises(InvalidDeviceError, match="not emulated"):
        device.cpuinfo_text()


def test_unknown_device_says_what_was_meant(write):
    write()
    error = _error("phnoe", UnknownDeviceError)
    assert error.lines["hint"] == "did you mean 'phone'? `edgecompile devices` lists all."


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threads = 2", "thread = 2\nthreads = 2", "did you mean 'threads'?"),
        ("threads = 2", 'threads = "2"', "phone.toml: threads"),
        ("threads = 2", "threads = 0", "phone.toml: threads"),
        ("threads = 2\n", "", "the key 'threads' is missing"),
        ("threads = 2", 'threads = 2\nname = "x"', "file's stem"),
        ('["fp16", "dotprod"]', '["fp16", "dotprd"]', "did you mean 'dotprod'?"),
        ("count = 2", "cont = 2\ncount = 2", "did you mean 'count'?"),
        ("[emulator]", "[memory]\nsize = 3\n[emulator]", "known: type, size_gb, bandwidth_gb_s"),
        ('"cortex-a76"', '"cortex-a67"', "did you mean 'cortex-a76'?"),
        ('"executorch"', '"executorh"', "did you mean 'executorch'?"),
        ('"clusters.count" = "a page"\n', "", "'clusters[0].count' has no provenance"),
        ('"clusters.isa" = "a table"\n', "", "'clusters[0].isa' has no provenance"),
        ('"clusters.count" = "a page"', '"clusters.count" = ""', "provenance.clusters.count"),
        ("[emulator]", '[memory]\ntype = "LPDDR5"\n[emulator]', "'memory.type' has no provenance"),
        ('"clusters.variant"', '"clusters.l1_kb" = "a page"\n"clusters.variant"', "does not state"),
        ('cpu = "cortex-a76"', 'cpu = "cortex-a53"', "cannot execute what engines choose for Little"),
        ("threads = 2", "= 2", "not valid TOML"),
    ],
)
def test_profiles_are_strict(write, old, new, said):
    with pytest.raises((InvalidDeviceError, ConfigurationErrors)) as caught:
        load_device(write((old, new)))
    assert said in " ".join(caught.value.render().split())


def test_an_unknown_target_is_named_with_its_file(write):
    error = _error(write(("android-arm64", "android-arm46")), UnknownTargetError)
    assert error.lines["where"].endswith("phone.toml: target")


def test_no_cores_to_show(write, tmp_path):
    name = write()
    head, rest = PHONE.split("[[clusters]]", 1)
    tail = rest[rest.index("[emulator]") :].splitlines()
    text = head + "\n".join(line for line in tail if not line.startswith('"clusters'))
    (tmp_path / "phone.toml").write_text(text)
    assert "no cores to show" in _error(name).message


def test_command(capsys):
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in device_names())
    assert "2 Cortex-X1 2.8, 2 Cortex-A76 2.25, 4 Cortex-A55 1.8" in printed
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["devices"]
    assert main(["devices", "pixel-6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) in listed
    assert main(["devices", "pixel-6"]) == 0
    printed = capsys.readouterr().out
    assert "0xd44" in printed and "LLVM's core tables" in printed
    assert main(["devices", "pixle-6"]) == 2
    assert "error[unknown-device]" in capsys.readouterr().err


def test_plan_says_that_the_device_chose_the_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(2, 2), (torch.zeros(1, 2),)\n"
    )
    build = ["build", "net.py:make", "--precision", "fp32", "--device", "pixel-6", "--no-cache", "--plan"]
    build.append("--json")
    assert main(build) == 0
    plan = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["plan"]}
    assert plan["target"] == {"name": "target", "value": ["android-arm64"], "origin": "device pixel-6"}
    assert plan["device"]["value"] == "pixel-6"
    assert main([*build, "--target", "ios-arm64"]) == 2
    assert "error[device-target-mismatch]" in capsys.readouterr().err
