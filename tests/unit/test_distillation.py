"""The training of a student with a teacher: how it ends, and how it goes on."""

import math
import time

import pytest
import torch
from torch import nn

from edgecompile import distillation
from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample
from edgecompile.distillation import DistillationSettings, Parameter, train
from edgecompile.distillation_course import course_findings
from edgecompile.progress import QuietProgress

SETTINGS = DistillationSettings(steps=40, minutes=10, batch=4, rate=0.05)


class Line:
    """A student of a linear layer; `before` is called with the number of each run."""

    together = 8

    def __init__(self, before=lambda run: None):
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(3, 5, generator=generator)
        self.parameters = [Parameter(value=self.weight, rate=1.0)]
        self.before, self.runs, self.factor = before, 0, 1.0

    def constants(self):
        return {"weight": self.weight * self.factor}

    def outputs(self, inputs, constants):
        self.runs += 1
        self.before(self.runs)
        return [inputs[0] @ constants["weight"].T]


class Counted(QuietProgress):
    """Counts steps, and keeps notes."""

    def __init__(self):
        self.steps, self.notes = 0, []

    def advance(self, count=1):
        self.steps += count

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return torch.export.export(nn.Linear(5, 3, bias=False).eval(), (torch.zeros(1, 5),))


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(2)
    return [Sample(inputs=(torch.randn(1, 5, generator=generator),), label=None) for _ in range(20)]


def codes(course):
    return [row.code for row in course_findings(course, what="training")]


def interrupt_at(run):
    def before(count):
        if count == run:
            raise KeyboardInterrupt

    return before


def test_it_learns(teacher, samples):
    student, progress = Line(), Counted()
    course = train(student, teacher, samples, SETTINGS, progress)
    assert course.best_error < 0.5 * course.first_error
    assert course.gain_db == pytest.approx(10 * math.log10(course.first_error / course.best_error))
    assert progress.steps == course.steps == course.asked == 40
    assert not codes(course)
    assert not student.weight.requires_grad


def test_samples_one_by_one_give_what_joined_ones_do(teacher, samples):
    joined, single = Line(), Line()
    single.together = 1
    for student in (joined, single):
        train(student, teacher, samples, SETTINGS, QuietProgress())
    assert torch.allclose(joined.weight, single.weight, atol=1e-5)
    assert joined.runs < single.runs


@pytest.mark.parametrize("run", [3, 10, 27, 43])
def test_an_interrupted_training_goes_on_bit_for_bit(run, teacher, samples, tmp_path):
    whole, course = Line(), None
    course = train(whole, teacher, samples, SETTINGS, QuietProgress())
    checkpoint = Checkpoint(tmp_path / "folder" / "state", "key")
    with pytest.raises(KeyboardInterrupt):
        train(Line(interrupt_at(run)), teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    assert checkpoint.path.exists()
    student, progress = Line(), Counted()
    assert train(student, teacher, samples, SETTINGS, progress, checkpoint=checkpoint) == course
    assert torch.equal(student.weight, whole.weight)
    assert progress.steps == 40
    assert student.runs < whole.runs
    assert not list(checkpoint.path.parent.iterdir())


def test_a_killed_training_goes_on_from_what_was_kept_last(teacher, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "_SAVED_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "state", "key")
    seen = []

    def look(run):
        if run == 30:  # as it is when a process is killed here
            seen.append(checkpoint.path.read_bytes())

    whole = Line(look)
    course = train(whole, teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    checkpoint.path.write_bytes(seen[0])
    student = Line()
    assert train(student, teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint) == course
    assert torch.equal(student.weight, whole.weight)
    assert student.runs < 30


def test_an_interruption_while_parameters_move_keeps_the_state_before(
    teacher, samples, tmp_path, monkeypatch
):
    checkpoint = Checkpoint(tmp_path / "state", "key")
    monkeypatch.setattr(distillation, "_SAVED_SECONDS", 0.0)
    own, moves = torch.optim.Adam.step, []

    def step(self, *args):
        moves.append(self)
        if len(moves) == 7:
            self.param_groups[0]["params"][0].data.fill_(99.0)
            raise KeyboardInterrupt
        return own(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(Line(), teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    resumed, whole = Line(), Line()
    train(resumed, teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    train(whole, teacher, samples, SETTINGS, QuietProgress())
    assert torch.equal(resumed.weight, whole.weight)


def test_another_key_begins_anew(teacher, samples, tmp_path):
    for key in ("one", "other"):
        checkpoint = Checkpoint(tmp_path / "state", key)
        student, progress = Line(interrupt_at(20)), Counted()
        with pytest.raises(KeyboardInterrupt):
            train(student, teacher, samples, SETTINGS, progress, checkpoint=checkpoint)
        assert student.runs == 20


def test_a_state_that_cannot_be_kept_is_noted_once(teacher, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "_SAVED_SECONDS", 0.0)
    (tmp_path / "file").write_text("")
    progress = Counted()
    checkpoint = Checkpoint(tmp_path / "file" / "state", "key")
    course = train(Line(), teacher, samples, SETTINGS, progress, checkpoint=checkpoint)
    assert course.steps == 40
    assert len(progress.notes) == 1


def test_the_time_of_an_interrupted_training_counts(teacher, samples, tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "state", "key")
    with pytest.raises(KeyboardInterrupt):
        train(Line(interrupt_at(20)), teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    tensors, facts = checkpoint.load()
    checkpoint.save(tensors, facts | {"seconds": 601.0})
    course = train(Line(), teacher, samples, SETTINGS, QuietProgress(), checkpoint=checkpoint)
    assert course.stopped == "time"
    assert course.steps == facts["step"]


def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(teacher, samples):
    student = Line()

    def before(run):
        student.factor = math.nan if run > 30 else 1.0

    student.before = before
    course = train(student, teacher, samples, SETTINGS, QuietProgress())
    assert codes(course) == ["distillation-not-finite"]
    assert 0 < course.best_step <= course.steps < 40
    assert course.best_error < course.first_error
    assert bool(student.weight.isfinite().all())


def test_a_student_that_is_not_finite_from_the_start_stays(teacher, samples):
    student = Line()
    before, student.factor = student.weight.clone(), math.nan
    course = train(student, teacher, samples, SETTINGS, QuietProgress())
    assert codes(course) == ["distillation-not-finite"]
    assert course.steps == 0
    assert torch.equal(student.weight, before)


def test_time_that_is_up_is_said(teacher, samples):
    settings = DistillationSettings(steps=40, minutes=1e-9, batch=4, rate=0.05)
    course = train(Line(), teacher, samples, settings, QuietProgress())
    (finding,) = course_findings(course, what="training", minutes="the_minutes")
    assert finding.code == "distillation-time-up"
    assert "after 1 of 40 steps" in finding.text
    assert "`the_minutes`" in finding.text


def test_little_time_gives_a_shorter_course(teacher, samples, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    settings = DistillationSettings(steps=400, minutes=1, batch=4, rate=0.05)
    course = train(Line(), teacher, samples, settings, QuietProgress())
    assert 10 < course.steps < 60
    assert course.best_error < course.first_error
    assert codes(course) == ["distillation-time-up"]


def test_no_gain_keeps_the_start(teacher, samples):
    student = Line()
    settings = DistillationSettings(steps=40, minutes=10, batch=4, rate=1e4)
    before = student.weight.clone()
    course = train(student, teacher, samples, settings, QuietProgress())
    assert codes(course) == ["distillation-without-gain"]
    assert course.gain_db == 0.0
    assert torch.equal(student.weight, before)


def test_what_is_right_already_takes_no_steps(teacher, samples):
    student = Line()
    student.weight.copy_(next(iter(teacher.state_dict.values())).detach())
    course = train(student, teacher, samples, SETTINGS, QuietProgress())
    assert course.steps == 0 or course.best_error < 1e-10


def test_no_parameters_take_no_steps(teacher, samples):
    student = Line()
    student.parameters = []
    assert train(student, teacher, samples, SETTINGS, QuietProgress()).steps == 0


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_a_damaged_checkpoint_counts_as_none(data, tmp_path):
    (tmp_path / "state").write_bytes(data)
    assert Checkpoint(tmp_path / "state", "key").load() is None


def test_a_checkpoint_gives_back_what_was_kept(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state", "key")
    assert checkpoint.load() is None
    checkpoint.save({"a": torch.arange(3)}, {"b": 0.1})
    tensors, facts = checkpoint.load()
    assert torch.equal(tensors["a"], torch.arange(3))
    assert facts == {"b": 0.1}
    assert Checkpoint(checkpoint.path, "other").load() is None
    checkpoint.clear()
    checkpoint.clear()
    assert not list(tmp_path.iterdir())
