"""The grammar's laws: what is printed is read again, whatever blanks and comments lie between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qemud.qapi.parser import Value, parse_value

STRINGS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'"), max_size=12)
# `default` and `version` open the door to numbers and null; see LITERALS.
KEYS = STRINGS.filter(lambda key: key not in {"default", "version"})
PLAIN = st.booleans() | STRINGS
LITERALS = PLAIN | st.none() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
BLANKS = st.lists(
    st.sampled_from([" ", "\n", "\t", "\r\n", "# a comment, 'with' {everything}\n", "#\n"]), max_size=2
).map("".join)


def values(leaves: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=12,
    )


def render(value: Value, draw: st.DrawFn) -> str:
    """The value in the language's syntax, with blanks anywhere."""

    def blank(text: str) -> str:
        return draw(BLANKS) + text + draw(BLANKS)

    match value:
        case dict():
            members = [render(key, draw) + blank(":") + render(member, draw) for key, member in value.items()]
            return blank("{") + ",".join(members) + blank("}")
        case list():
            return blank("[") + ",".join(render(element, draw) for element in value) + blank("]")
        case bool():
            return blank("true" if value else "false")
        case str():
            return blank("'" + value.replace("\\", "\\\\") + "'")
        case None:
            return blank("null")
        case _:
            return blank(repr(value))


@st.composite
def rendered(draw: st.DrawFn, leaves: st.SearchStrategy[Value]) -> tuple[Value, str]:
    value = draw(values(leaves))
    return value, render(value, draw)


@given(rendered(PLAIN))
def test_plain_values_come_back(case: tuple[Value, str]) -> None:
    value, text = case
    assert parse_value(text) == value


@given(rendered(LITERALS), st.sampled_from(["default", "version"]))
def test_any_json_value_comes_back_under_the_keys_of_the_extensions(
    case: tuple[Value, str], key: str
) -> None:
    value, text = case
    parsed = parse_value(f"{{ '{key}': {text} }}")
    assert parsed == {key: value}
    # 1, 1.0 and true are equal, but not the same.
    assert repr(parsed) == repr({key: value})
