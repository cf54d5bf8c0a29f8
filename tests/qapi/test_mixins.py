"""Structs that take members from several others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.build import build, build_docs
from qemud.qapi.generate.properties import description
from qemud.qapi.model import ObjectType
from qemud.qapi.schema import load

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = """
{ 'pragma': { 'doc-required': true } }
##
# = Things
##

##
# @Base:
#
# @b: of the base
##
{ 'struct': 'Base', 'data': { 'b': 'str' } }

##
# @Under:
#
# @u1: of what is under the mixin
##
{ 'struct': 'Under', 'data': { '*u1': { 'type': 'int', 'default': 3 } } }

##
# @Mixin:
#
# @m: of the mixin
##
{ 'struct': 'Mixin', 'base': 'Under', 'data': { '*m': 'bool' } }

##
# @Whole:
#
# @own: its own
##
{ 'struct': 'Whole', 'base': 'Base', 'mixins': [ 'Mixin' ],
  'data': { 'own': 'int' } }
"""


def test_members_are_copied_with_their_documentation(tmp_path: Path) -> None:
    source = tmp_path / "schema.json"
    source.write_text(SCHEMA)
    schema = load(source)
    whole = schema.entities["Whole"]
    assert isinstance(whole, ObjectType)
    assert [member.name for member in whole.members] == ["b", "u1", "m", "own"]
    assert [member.name for member in whole.own_members] == ["u1", "m", "own"]
    assert [description(whole, member.name) for member in whole.members] == [
        "of the base",
        "of what is under the mixin",
        "of the mixin",
        "its own",
    ]
    build(schema, tmp_path / "out")
    types = "\n".join(path.read_text() for path in (tmp_path / "out" / "types").glob("*.py"))
    assert "class Whole(Base, kw_only=True)" in types
    build_docs(schema, tmp_path / "docs")
    page = "\n".join(path.read_text() for path in (tmp_path / "docs").rglob("schema.md"))
    listed = page[page.index("Whole") :]
    assert "- the members of [`Base`]" in listed
    assert "- the members of [`Mixin`]" in listed
    assert "`own`" in listed
