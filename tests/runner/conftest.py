"""Small networks in every format and precision, and what the Python engines compute with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import nn

from edgecompile.artifact import sha256
from edgecompile.capture import capture
from edgecompile.cli.main import main
from edgecompile.connection import Connection
from edgecompile.connections.emulator import Emulator
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.engine_libraries import Platform
from edgecompile.errors import ToolMissingError
from edgecompile.graph_pass import run_passes
from edgecompile.measurement import Measurement
from edgecompile.program import QuantizedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.run_artifact import run_artifact
from edgecompile.target import load_target
from edgecompile.toolchain import find_toolchain

Outputs = list[tuple[torch.Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Made:
    """One artifact on disk."""

    engine: str
    path: Path
    samples: list[tuple[torch.Tensor, ...]]

    @property
    def sha256(self) -> str:
        return sha256(self.path.read_bytes())

    def run_on(self, connection: Connection, **options: Any) -> Measurement:
        """Run it once in its native runner there, and close the connection."""
        with connection:
            return run_artifact(
                self.path, self.sha256, self.samples, connection, engine=self.engine, iterations=1, **options
            )

    def outputs(self, *, precise: bool = False) -> Outputs:
        """Return what the engine computes in Python."""
        session = load_engine(self.engine).load(self.path.read_bytes(), precise=precise)
        return [session.run(sample) for sample in self.samples]


class Net(nn.Module):
    """A strided convolution, a depthwise separable block with its residual, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6(), nn.Conv2d(16, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.block(x)).mean([2, 3]))


class Tied(nn.Module):
    """One convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every artifact by precision, or "tied", and format ("int8.pte"); made once for all test processes."""
    folder = _shared(tmp_path_factory) / "artifacts"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _make(folder)
    samples = torch.load(folder / "samples.pt")
    target = load_target("android-arm64")
    engines = {name: load_emitter(settings.emitter).engine for name, settings in target.emit.items()}
    paths = [folder / f"{precision}.{suffix}" for precision in ("int8", "fp32", "tied") for suffix in engines]
    return {path.name: Made(engine=engines[path.suffix[1:]], path=path, samples=samples) for path in paths}


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all test processes share."""
    folder = tmp_path_factory.getbasetemp()
    # With pytest-xdist, each process has a folder of its own inside one that they share.
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def _make(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    inputs = [(torch.randn(1, 3, 16, 16),) for _ in range(8)]
    torch.save(inputs[:3], folder / "samples.pt")
    emitters = load_target("android-arm64").emit
    programs = _lowered(Net(), inputs) | {"tied": _lowered(Tied(), inputs)["int8"]}
    for name, program in programs.items():
        for suffix, settings in emitters.items():
            emitted = load_emitter(settings.emitter).emit(program, settings)
            (folder / f"{name}.{suffix}").write_bytes(emitted.data)


def _lowered(net: nn.Module, inputs: list[tuple[torch.Tensor, ...]]) -> dict[str, QuantizedProgram]:
    """Return a network's programs, by precision."""
    target = load_target("android-arm64")
    source = SourceModel(name="net", module=net.eval(), exported=None, example_inputs=inputs[0])
    captured = run_passes(capture(source, dynamic_batch=False), [entry.name for entry in target.passes])
    data = Dataset(samples=tuple(Sample(inputs=item, label=None) for item in inputs), spec="noise")
    return {
        "int8": quantize(captured, data, target.quantization, QuietProgress()),
        "fp32": keep_float(captured),
    }


def _require(platform: Platform) -> None:
    try:
        find_toolchain(platform)
    except ToolMissingError as error:
        pytest.skip(f"{error.message} ({error.lines.get('hint')})")


@pytest.fixture(scope="session")
def host_tools() -> None:
    """Skip where no runner can be built for this machine."""
    _require("host")


@pytest.fixture(scope="session")
def emulator() -> Callable[..., Emulator]:
    """Skip where no arm64 runner can be built or run."""
    _require("linux-arm64")
    try:
        Emulator().close()
    except ToolMissingError as error:
        pytest.skip(f"{error.message} ({error.lines.get('hint')})")
    return Emulator


@pytest.fixture
def state_of() -> Callable[[int], str]:
    """A function that gives the first letter of a process's state: nothing or Z where it has ended."""

    def state(pid: int) -> str:
        shown = ["ps", "-o", "stat=", "-p", str(pid)]
        return subprocess.run(shown, capture_output=True, text=True, check=False).stdout.strip()[:1]

    return state


NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU6(), depthwise, nn.Flatten(), nn.LazyLinear(5))
    net(torch.rand(1, 3, 16, 16))
    return net, (torch.rand(1, 3, 16, 16),)

def pictures():
    torch.manual_seed(1)
    return [torch.rand(3, 16, 16) for _ in range(10)]
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that the command line built for android-arm64."""
    folder = _shared(tmp_path_factory) / "bundle"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            (folder / "small.py").write_text(NETWORK)
            arguments = ["build", f"{folder}/small.py:make", "--device", "pixel-6"]
            arguments += ["--calibration", f"{folder}/small.py:pictures", "--output", str(folder / "out")]
            assert main(arguments) == 0
    return folder / "out" / "android-arm64"
