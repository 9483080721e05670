import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.embedding.identifiers import identifier, identifiers, type_name
from edgecompile.errors import NameCollisionError


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x", "x"),
        ("mobilenet-v2.1", "mobilenet_v2_1"),
        ("__hidden__", "hidden"),
        ("2d", "x_2d"),
        ("größe", "gr_e"),
        ("猫", "x"),
        ("class", "class_"),
        ("", "x"),
    ],
)
def test_names(name, found):
    assert identifier(name, {"class"}) == found


@given(st.text())
def test_any_name_is_an_identifier(name):
    plain = identifier(name, keyword.kwlist)
    assert plain.isidentifier()
    assert plain.isascii()
    assert not keyword.iskeyword(plain)
    assert "__" not in plain
    assert type_name(plain).isidentifier()


def test_the_same_identifier_twice():
    assert identifiers(["a.b", "A_b"], (), "input") == ("a_b", "A_b")
    with pytest.raises(NameCollisionError) as caught:
        identifiers(["a.b", "c", "a-b"], (), "input")
    assert "'a.b' and 'a-b'" in caught.value.render()
