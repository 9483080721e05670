"""What is offered to a wrapper that verifies signatures: what it must take, and what it must refuse."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from edgecompile.artifact import Manifest, interface_of, load_bundle, sha256, write_manifest
from edgecompile.signing.bundle_signature import sign_bundle
from edgecompile.signing.key_files import load_private_key, write_key_pair

Outcome = Literal["taken", "bad signature", "bad artifact", "unreadable"]


@dataclass(frozen=True)
class Offer:
    """An artifact with its manifest and signature beside it, as an update would bring them.

    Attributes:
        factor: How many times the engine's outputs for the embedded artifact its outputs are, if it is taken.
    """

    name: str
    artifact: Path
    outcome: Outcome
    factor: int = 1


@dataclass(frozen=True)
class SignedBundle:
    """A signed bundle, and who signed it."""

    path: Path
    public_key: Path


def sign(bundle: Path, private_key: Path) -> None:
    sign_bundle(bundle, load_private_key(private_key, lambda: None))


def signed_copy(bundle: Path, folder: Path) -> SignedBundle:
    """Return a copy of a bundle that is signed with `folder/release.pem`; beside it is `other.pem`."""
    for name in ("release", "other"):
        write_key_pair(folder / f"{name}.pem", folder / f"{name}.public.pem", None)
    path = shutil.copytree(bundle, folder / "bundle")
    sign(path, folder / "release.pem")
    return SignedBundle(path=path, public_key=folder / "release.public.pem")


def offers(signed: SignedBundle, format_name: str, folder: Path) -> list[Offer]:
    """Write all that may be offered to the wrapper of a signed bundle, each to a folder of its own."""
    keys = signed.public_key.parent
    file = next(item.path for item in load_bundle(signed.path).artifacts if item.format == format_name)
    whole = (signed.path / file).read_bytes()
    names = (file, "manifest.json", "signature.json")

    def bundle(name: str, change: Callable[[Path], None], key: str = "release") -> Path:
        path = shutil.copytree(signed.path, folder / "bundles" / name)
        change(path)
        sign(path, keys / f"{key}.pem")
        return path

    def offer(name: str, outcome: Outcome, *sources: Path, factor: int = 1) -> Offer:
        path = folder / name.replace(" ", "-")
        path.mkdir()
        for each, source in zip(names, sources, strict=True):
            shutil.copy(source / each, path / each)
        return Offer(name=name, artifact=path / file, outcome=outcome, factor=factor)

    def altered(name: str, outcome: Outcome, place: str, position: int) -> Offer:
        made = offer(name, outcome, own, own, own)
        path = made.artifact.parent / place
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)
        return made

    def without(name: str) -> Offer:
        made = offer(f"no {name}", "unreadable", own, own, own)
        (made.artifact.parent / name).unlink()
        return made

    own = signed.path
    factor = 2 if format_name == "onnx" else 1
    update = bundle("update", lambda path: _replace(path, file, other_artifact(whole, format_name)))
    other_key = bundle("other-key", lambda path: None, "other")
    other_model = bundle("other-model", lambda path: _rewrite(path, name="another"))
    digits = (signed.path / "signature.json").read_bytes().index(b'"signature": "') + 14
    return [
        offer("as embedded", "taken", own, own, own),
        offer("an update", "taken", update, update, update, factor=factor),
        *(
            altered(f"the artifact at {position}", "bad artifact", file, position)
            for position in (0, len(whole) // 2, len(whole) - 1)
        ),
        offer("the artifact of an update", "bad artifact", update, own, own),
        offer("the artifact of before", "bad artifact", own, update, update),
        *(
            altered(f"the manifest at {position}", "bad signature", "manifest.json", position)
            for position in (0, 700, -2)
        ),
        *(
            altered(f"the signature at {position}", "bad signature", "signature.json", position)
            for position in (0, 21, digits, digits + 127, -1)
        ),
        offer("the manifest of an update", "bad signature", update, update, own),
        offer("another's signature", "bad signature", own, own, other_key),
        offer("another's bundle", "bad signature", update, other_key, other_key),
        offer("another model", "bad signature", other_model, other_model, other_model),
        without("manifest.json"),
        without("signature.json"),
        without(file),
    ]


def check_outcomes(offered: Sequence[Offer], found: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
    """Check what became of each offer, in a platform's own words."""
    told = {item.name: outcomes[word] for item, word in zip(offered, found, strict=True)}
    assert told == {item.name: item.outcome for item in offered}


def other_artifact(data: bytes, format_name: str) -> bytes:
    """Return an artifact of the same model: as ONNX, with outputs that are twice as large."""
    if format_name == "pte":
        return data + bytes(64)  # behind the program, which ends where its header says
    model = onnx.load_from_string(data)
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    assert last.op_type == "DequantizeLinear"
    scale = next(item for item in model.graph.initializer if item.name == last.input[1])
    doubled = onnx.numpy_helper.from_array(
        2 * onnx.numpy_helper.to_array(scale).astype(np.float32), "doubled"
    )
    model.graph.initializer.append(doubled)
    last.input[1] = doubled.name
    return model.SerializeToString()


def _replace(bundle: Path, file: str, data: bytes) -> None:
    (bundle / file).write_bytes(data)
    manifest = load_bundle(bundle).manifest
    artifacts = tuple(
        dataclasses.replace(item, sha256=sha256(data), size_bytes=len(data)) if item.path == file else item
        for item in manifest.artifacts
    )
    _write(
        bundle,
        dataclasses.replace(manifest, artifacts=artifacts, files=manifest.files | {file: sha256(data)}),
    )


def _rewrite(bundle: Path, **changes: str) -> None:
    _write(bundle, dataclasses.replace(load_bundle(bundle).manifest, **changes))


def _write(bundle: Path, manifest: Manifest) -> None:
    write_manifest(bundle, dataclasses.replace(manifest, interface=interface_of(manifest)))
