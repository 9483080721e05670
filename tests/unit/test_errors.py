import re

from edgecompile import errors
from edgecompile.problems import Problems


def _classes(base):
    for subclass in base.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield subclass
            yield from _classes(subclass)


CLASSES = [found for found in _classes(errors.EdgecompileError) if hasattr(found, "code")]


def test_codes_are_unique_and_kebab_case():
    codes = [found.code for found in CLASSES]
    assert len(codes) == len(set(codes)) > 30
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) for code in codes)


def test_every_class_is_documented_and_has_a_documented_exit_status():
    documented = {int(number) for number in re.findall(r"\b(\d+) [a-z]", errors.__doc__ or "")}
    assert {0, 2, 3, 4, 5, 6, 70, 130} <= documented
    for found in CLASSES:
        assert found.exit_status in documented - {0}, found
        assert found.__doc__, found


def test_render_aligns_labels_and_continues_lines():
    error = errors.UsageError("no", where="a: b", known="one\ntwo", hint=None)
    assert error.render() == "error[usage]: no\n  where: a: b\n  known: one\n         two"


def test_one_problem_is_raised_as_itself_and_several_together():
    problems = Problems()
    problems.raise_any()
    one, other = errors.UsageError("one"), errors.UsageError("other")
    with problems.collecting():
        raise one
    with problems.collecting():
        raise errors.ConfigurationErrors([one, other])
    assert problems.errors == [one, other]
    try:
        problems.raise_any()
    except errors.ConfigurationErrors as raised:
        assert raised.render() == "error[usage]: one\nerror[usage]: other"
