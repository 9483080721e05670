import pytest

from edgecompile.connect import connect
from edgecompile.connections.ssh import Address, parse_address
from edgecompile.errors import UsageError


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("pi@board", "pi", "board", None),
        ("pi@board.local:2222", "pi", "board.local", 2222),
        ("pi@192.168.1.7:22", "pi", "192.168.1.7", 22),
        ("pi@[fe80::1%eth0]", "pi", "fe80::1%eth0", None),
        ("pi@[::1]:2222", "pi", "::1", 2222),
    ],
)
def test_addresses(text, user, host, port):
    assert parse_address(text) == Address(user=user, host=host, port=port)


@pytest.mark.parametrize(
    "text",
    [
        "board",
        "@board",
        "pi@",
        "pi@board:",
        "pi@board:0",
        "pi@board:65536",
        "pi@board:ssh",
        "pi@::1",
        "pi@[::1",
        "-oProxyCommand=touch@board",
        "pi@-oProxyCommand=touch",
        "pi@[-x]",
        "pi pi@board",
        "pi@board board",
        "pi@bo\nard",
        "pi@bo\x07ard",
        "p\x00i@board",
        "pi@a@b",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError):
        connect(f"ssh:{text}")


@pytest.mark.parametrize(
    "name", ["", "phone", "host:1", "emulator:cortex-a76", "adb:", "ssh", "ssh:", "HOST"]
)
def test_what_is_no_place_is_refused_with_those_that_there_are(name):
    with pytest.raises(UsageError, match="no place") as error:
        connect(name)
    assert "ssh:USER@HOST" in error.value.lines["known"]


@pytest.mark.parametrize("name", ["host", "adb", "adb:1A2B", "ssh:pi@board"])
def test_only_the_emulator_plays_a_device(name):
    with pytest.raises(UsageError, match="what the emulator plays"):
        connect(name, device="pixel-6")
