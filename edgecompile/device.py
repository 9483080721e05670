"""A device: what an artifact must fit, read from a TOML file in device_profiles/.

Every figure of a profile says where it is from, in its table `provenance`: a source, "derived: how" or
"unsourced". A figure without one is refused, so that a report never shows a number that nobody can trace.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, with_config

from edgecompile import catalogue, shipped
from edgecompile.errors import InvalidDeviceError, UnknownDeviceError, UnknownTargetError, did_you_mean
from edgecompile.problems import Problems
from edgecompile.setting import Setting
from edgecompile.strict_toml import STRICT, parse, read_toml
from edgecompile.target import target_names

IsaFeature = Literal[
    "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme", "avx2", "avx512", "vnni", "avx-vnni", "amx"
]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]

EMULATED_ISA: Mapping[str, frozenset[IsaFeature]] = {
    "cortex-a35": frozenset(),
    "cortex-a53": frozenset(),
    "cortex-a57": frozenset(),
    "cortex-a72": frozenset(),
    "cortex-a76": frozenset({"fp16", "dotprod"}),
    "neoverse-n1": frozenset({"fp16", "dotprod"}),
}
"""What qemu's CPU models can execute, of the features that a profile may name."""

INFERRED_FROM_PART: frozenset[IsaFeature] = frozenset({"fp16", "dotprod"})
"""The features that an engine's cpuinfo library takes for granted on parts that it knows, whatever the
system reports. All others it uses only if the (emulated) processor reports them."""

_CPUINFO_FLAGS: Mapping[IsaFeature, str] = {"fp16": "fphp asimdhp", "dotprod": "asimddp"}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        core: The core's design ("Cortex-A76").
        count: How many there are.
        isa: The instruction-set features that engines choose kernels by.
        clock_ghz: The highest clock.
        l1_kb: The data cache of one core.
        l2_kb: The second-level cache of one core, or of the cluster if its cores share one.
        l3_kb: The cache that all clusters share.
        implementer: Who designed the core, as in the register MIDR_EL1 (0x41 is Arm).
        part: The core's number there; None where it is not known or is no Arm core.
        variant: The major revision there (r1p0: 1); None is 0.
    """

    core: str
    count: Count
    isa: tuple[IsaFeature, ...] = ()
    clock_ghz: Amount | None = None
    l1_kb: Count | None = None
    l2_kb: Count | None = None
    l3_kb: Count | None = None
    implementer: Annotated[int, Field(ge=0, le=0xFF)] | None = None
    part: Annotated[int, Field(ge=0, le=0xFFF)] | None = None
    variant: Annotated[int, Field(ge=0, le=0xF)] | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Memory:
    """The main memory; what is not known is left out."""

    type: str = ""
    size_gb: Amount | None = None
    bandwidth_gb_s: Amount | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Emulator:
    """How the emulator plays the device.

    Attributes:
        cpu: The CPU model of qemu; "" if the device is not emulated.
        cpuinfo: The cores that it shows instead of the device's own: for a device whose cores have no
            known part number. Engines choose their kernels by these.
    """

    cpu: Literal["", "cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1"] = ""
    cpuinfo: tuple[Cluster, ...] = ()


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an artifact may take on this device, where something sets a limit."""

    max_size_mb: Amount | None = None
    max_memory_mb: Amount | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Device:
    """One device profile.

    Attributes:
        name: The file's stem.
        soc: The chip.
        target: How to compile for it: a file in targets/.
        engine: The engine that runs there by default.
        threads: How many threads an engine uses by default.
        channel_multiple: What numbers of channels should be multiples of, for kernels to be full.
        clusters: The processor's cores, in the order in which the system numbers them; empty if the
            profile stands for no certain processor.
        npu: The neural accelerator, if there is one.
        provenance: The source of each figure. A key without positions (`clusters.clock_ghz`) stands for
            all positions; one with a position (`clusters[1].clock_ghz`) wins over it.
    """

    name: str
    description: str
    soc: str
    target: str
    engine: str
    threads: Count
    channel_multiple: Count
    clusters: tuple[Cluster, ...] = ()
    memory: Memory = Memory()
    npu: str = ""
    emulator: Emulator = Emulator()
    limits: Limits = Limits()
    provenance: Mapping[str, Annotated[str, Field(min_length=1)]]

    @property
    def isa(self) -> tuple[IsaFeature, ...]:
        """The features that every core has: what code may use wherever the system runs it."""
        kinds = [cluster.isa for cluster in self.clusters]
        return tuple(
            feature for feature in get_args(IsaFeature) if kinds and all(feature in k for k in kinds)
        )

    @property
    def shown_clusters(self) -> tuple[Cluster, ...]:
        """The cores that the emulator shows to the engine."""
        return self.emulator.cpuinfo or self.clusters

    def cpuinfo_text(self, core: str | None = None) -> str:
        """Return /proc/cpuinfo as the emulator shows it.

        Args:
            core: Show the cores of this kind only. Engines ask on which processor a thread runs, and
                under the emulator the answer is the host's: with one kind shown, the kernels and with
                them the instruction count do not depend on the host.

        Raises:
            InvalidDeviceError: The device is not emulated, or has no such core.
        """
        known = tuple(cluster.core for cluster in self.shown_clusters)
        if not self.emulator.cpu:
            raise InvalidDeviceError(f"the device {self.name!r} is not emulated", where=str(_path(self.name)))
        if core is not None and core not in known:
            raise InvalidDeviceError(
                f"the device {self.name!r} shows no core {core!r}",
                where=str(_path(self.name)),
                known=", ".join(known),
            )
        shown = [cluster for cluster in self.shown_clusters if core in (None, cluster.core)]
        processors = [cluster for cluster in shown for _ in range(cluster.count)]
        return "".join(processor_text(n, cluster, self.emulator.cpu) for n, cluster in enumerate(processors))

    def figures(self) -> tuple[Setting, ...]:
        """Return all that the profile says, with the source of each figure as its origin ("" has none)."""
        return tuple(
            Setting(name=key, value=value, origin=_source(key, self.provenance) or "")
            for key, value in _leaves(dataclasses.asdict(dataclasses.replace(self, provenance={})))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `edgecompile devices NAME --json` prints."""
        return {**dataclasses.asdict(self), "isa": self.isa}


def device_names() -> tuple[str, ...]:
    """Return the names of all devices, sorted."""
    return tuple(sorted(path.stem for path in shipped.device_profiles_folder().glob("*.toml")))


def load_device(name: str) -> Device:
    """Read and check a device profile.

    Raises:
        UnknownDeviceError: There is no such file.
        InvalidDeviceError: The file does not follow the schema.
        UnknownTargetError: It names a target that does not exist.
        ConfigurationErrors: Several of these.
    """
    if name not in device_names():
        raise UnknownDeviceError(name, device_names())
    path = _path(name)
    data = read_toml(path, InvalidDeviceError)
    if "name" in data:
        raise InvalidDeviceError(
            "unknown key 'name'", where=f"{path}: name", hint="a device's name is its file's stem"
        )
    device = parse(Device, {"name": name, **data}, InvalidDeviceError, lambda key: path)
    problems = Problems()
    _check_names(device, path, problems)
    _check_provenance(device, path, problems)
    _check_emulator(device, path, problems)
    problems.raise_any()
    return device


def _path(name: str) -> Path:
    return shipped.device_profiles_folder() / f"{name}.toml"


def _check_names(device: Device, path: Path, problems: Problems) -> None:
    """Check the names that stand for files: target and engine."""
    if device.target not in target_names():
        problems.add(UnknownTargetError(device.target, target_names(), where=f"{path}: target"))
    engines = catalogue.names("edgecompile.engines")
    if device.engine not in engines:
        guess = did_you_mean(device.engine, engines)
        problems.add(
            InvalidDeviceError(
                f"there is no engine {device.engine!r}",
                where=f"{path}: engine",
                known=", ".join(engines),
                hint=f"did you mean {guess!r}?" if guess else None,
            )
        )


def _check_provenance(device: Device, path: Path, problems: Problems) -> None:
    """Check that every figure has a source, and that every source belongs to something."""
    figures = device.figures()
    for figure in figures:
        if is_sourced(figure) and not figure.origin:
            problems.add(
                InvalidDeviceError(
                    f"the figure {figure.name!r} has no provenance",
                    where=f"{path}: provenance",
                    expected="a source, 'derived: how' or 'unsourced'",
                    hint=f'`"{_without_positions(figure.name)}" = "..."` in the table provenance',
                )
            )
    known = {key for figure in figures for key in (figure.name, _without_positions(figure.name))}
    for key in sorted(device.provenance.keys() - known):
        guess = did_you_mean(key, known)
        problems.add(
            InvalidDeviceError(
                f"provenance of {key!r}, which the profile does not state",
                where=f"{path}: provenance",
                hint=f"did you mean {guess!r}?" if guess else None,
            )
        )


def is_sourced(figure: Setting) -> bool:
    """Return whether this needs a source: numbers, and what hardware has; not names and our choices."""
    hardware = figure.name.endswith(".isa") or figure.name in ("memory.type", "npu")
    return hardware or isinstance(figure.value, int | float)


def _check_emulator(device: Device, path: Path, problems: Problems) -> None:
    """Check that the emulated CPU can execute the kernels that engines choose for the cores it shows."""
    emulated = device.emulator.cpu
    if not emulated:
        return
    if not device.shown_clusters:
        problems.add(
            InvalidDeviceError("the emulator has no cores to show", where=f"{path}: emulator.cpuinfo")
        )
    for cluster in device.shown_clusters:
        if cluster.implementer is None or cluster.part is None:
            problems.add(
                InvalidDeviceError(
                    f"the core {cluster.core!r} has no implementer and part to show in the emulator",
                    where=f"{path}: clusters",
                    hint="give both, or show a similar core with `emulator.cpuinfo`",
                )
            )
        missing = (INFERRED_FROM_PART & set(cluster.isa)) - EMULATED_ISA[emulated]
        if missing:
            problems.add(
                InvalidDeviceError(
                    f"the emulated {emulated} cannot execute what engines choose for {cluster.core}",
                    where=f"{path}: emulator.cpu",
                    expected=f"a CPU model with {', '.join(sorted(missing))}",
                    hint="cortex-a76 has them",
                )
            )


def processor_text(number: int, cluster: Cluster, emulated: str) -> str:
    """Return one processor's lines, in the words of the Linux kernel on 64-bit Arm."""
    has = [flags for feature, flags in _CPUINFO_FLAGS.items() if feature in EMULATED_ISA[emulated]]
    rows = {
        "processor\t": str(number),
        "Features\t": " ".join(("fp asimd evtstrm crc32", *has)),
        "CPU implementer\t": f"0x{cluster.implementer:02x}",
        "CPU architecture": "8",
        "CPU variant\t": f"0x{cluster.variant or 0:x}",
        "CPU part\t": f"0x{cluster.part:03x}",
        "CPU revision\t": "0",
    }
    return "".join(f"{label}: {value}\n" for label, value in rows.items()) + "\n"


def _source(key: str, provenance: Mapping[str, str]) -> str | None:
    return provenance.get(key) or provenance.get(_without_positions(key))


def _without_positions(key: str) -> str:
    """Return `clusters.count` for `clusters[1].count`."""
    return "".join(part.partition("]")[2] if "]" in part else part for part in key.split("["))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key of each value; what was not said is left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        for position, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{position}]")
    elif value not in (None, "", ()):
        yield key, value
