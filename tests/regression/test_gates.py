"""Gates on builds that are written down here: what is rare in a real one."""

from edgecompile.regression.facts import ArtifactFacts, BuildFacts, TensorFacts
from edgecompile.regression.gates import Builds, sqnr
from edgecompile.regression.tolerances import Tolerances
from edgecompile.sample_scores import SampleScores

SAMPLES = 8


def facts(signal: tuple[float, ...], noise: tuple[float | None, ...]) -> BuildFacts:
    """Return a build with an output for each number: its energies in every one of the samples."""
    scores = SampleScores(
        correct=None,
        same_top1=None,
        signal=tuple((value,) * SAMPLES for value in signal),
        noise=tuple((value,) * SAMPLES for value in noise),
    )
    artifact = ArtifactFacts(
        sha256="", size_bytes=1000, operators={}, delegate_calls=1, identical=1.0, scores=scores
    )
    names = [f"out{place}" for place in range(len(signal))]
    found = BuildFacts(
        name="net",
        target="android-arm64",
        precision="int8",
        inputs=(),
        outputs=tuple(TensorFacts(name=name, shape=(1, 4), dtype="float32") for name in names),
        host="",
        samples=SAMPLES,
        data_sha256="",
        calibration_sha256=None,
        float_correct=None,
        float_sketch=(),
        float_operators=0,
        artifacts={"pte": artifact},
        input_ranges={},
        layers={},
    )
    assert found.inconsistent() is None
    return found


def rows(gate, before: BuildFacts, now: BuildFacts) -> dict[str, str]:
    return {row.of: row.verdict for row in gate(Builds(baseline=before, now=now, allowed=Tolerances()))}


def test_a_large_output_does_not_hide_what_a_small_one_loses():
    before = facts((1e6, 1.0), (1e3, 0.001))
    now = facts((1e6, 1.0), (1e3, 1.0))
    assert rows(sqnr, before, now) == {"pte": "passed", "pte out0": "passed", "pte out1": "failed"}


def test_one_output_has_one_row():
    assert rows(sqnr, facts((1.0,), (0.01,)), facts((1.0,), (None,))) == {"pte": "failed"}
