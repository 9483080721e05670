"""Every error that a user can see is reached by a test."""

import re
from pathlib import Path

import pytest

from edgecompile import errors

TESTS = Path(__file__).parent.parent
CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, errors.EdgecompileError) and "code" in vars(found)
]


@pytest.fixture(scope="module")
def tests():
    return "\n".join(
        path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path != Path(__file__)
    )


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.code)
def test_some_test_reaches_it(error, tests):
    """By its class, or by its code as it is printed or as a test's parameter holds it."""
    forms = (rf"\b{error.__name__}\b", rf"error\[{error.code}\]", f'"{error.code}"')
    assert any(re.search(form, tests) for form in forms), f"no test names {error.__name__} or {error.code}"
