"""Who may come in."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.crypto.authz import authorize, glob_matches
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qemud.qom.tree import Tree

DENIED = "TLS x509 authz check for {} is denied"


def allowed(tree: Tree, identity: str, name: str = "o") -> bool:
    said = ""
    try:
        asyncio.run(authorize(tree.objects.children, name, identity))
    except GenericError as error:
        said = str(error)
    assert said in {"", DENIED.format(identity)}
    return not said


def test_one_identity(tree: Tree, add: Callable[..., Any]) -> None:
    made = add("authz-simple", identity="CN=alice")
    assert allowed(tree, "CN=alice")
    assert not allowed(tree, "CN=alice ")
    made.set_property("identity", "CN=bob")
    assert allowed(tree, "CN=bob")
    assert not allowed(tree, "CN=alice")


def test_the_first_rule_that_matches_decides(tree: Tree, add: Callable[..., Any]) -> None:
    rules = [
        {"match": "CN=mallory", "policy": "deny"},
        {"match": "CN=m*", "policy": "allow", "format": "glob"},
        {"match": "CN=?", "policy": "allow"},
    ]
    made = add("authz-list", rules=rules)
    assert [allowed(tree, f"CN={name}") for name in ("mallory", "mary", "x", "?")] == [
        False,
        True,
        False,
        True,
    ]
    made.set_property("policy", "allow")
    assert [allowed(tree, f"CN={name}") for name in ("mallory", "x")] == [False, True]
    made.set_property("rules", [])
    assert allowed(tree, "CN=mallory")


def test_nobody_comes_in_without_the_object(tree: Tree, add: Callable[..., Any]) -> None:
    add("secret", data="x")
    for name, text in (
        ("nope", "Cannot find QAuthZ object ID nope"),
        ("o", "Object 'o' is not a QAuthZ subclass"),
    ):
        with pytest.raises(GenericError, match=f"^{text}$"):
            asyncio.run(authorize(tree.objects.children, name, "CN=alice"))


def test_a_file_is_read_for_each_decision(tree: Tree, add: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    rule = {"match": "CN=alice", "policy": "allow"}
    file.write_text(json.dumps({"rules": [rule]}))
    add("authz-list-file", filename=os.fspath(file))
    add("authz-list-file", "once", filename=os.fspath(file), refresh=False)
    assert allowed(tree, "CN=alice")
    assert not allowed(tree, "CN=bob")
    file.write_text(json.dumps({"policy": "allow", "rules": [{**rule, "policy": "deny"}]}))
    assert not allowed(tree, "CN=alice")
    assert allowed(tree, "CN=bob")
    file.write_text("{")
    with pytest.raises(GenericError, match=rf"^{re.escape(os.fspath(file))}:1:2: "):
        asyncio.run(authorize(tree.objects.children, "o", "CN=bob"))
    file.unlink()
    with pytest.raises(GenericError, match=rf"^Unable to read '{file}': .*No such file or directory$"):
        asyncio.run(authorize(tree.objects.children, "o", "CN=bob"))
    assert allowed(tree, "CN=alice", "once")
    assert not allowed(tree, "CN=bob", "once")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "File '{}' must contain a JSON object"),
        ('{"rules": [{"match": "x"}]}', "{}:1: Parameter 'rules[0].policy' is missing"),
        ('{"policy": "maybe"}', "{}:1: Parameter 'policy' does not accept value 'maybe'"),
        ('{"polcy": "deny"}', "{}:1: Parameter 'polcy' is unexpected"),
    ],
)
def test_a_file_that_is_wrong_makes_no_object(
    tree: Tree, add: Callable[..., Any], tmp_path: Path, content: str, text: str
) -> None:
    file = tmp_path / "rules.json"
    file.write_text(content)
    with pytest.raises(GenericError) as caught:
        add("authz-list-file", filename=os.fspath(file))
    assert str(caught.value) == text.format(file)
    assert not tree.objects.children


def test_a_file_that_is_read_again_needs_its_whole_path(
    tree: Tree, add: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.json").write_text("{}")
    with pytest.raises(GenericError, match=r"^Filename must be an absolute path$"):
        add("authz-list-file", filename="rules.json")
    add("authz-list-file", filename="rules.json", refresh=False)
    assert not allowed(tree, "CN=alice")


def test_a_pipe_is_no_file_of_rules(tree: Tree, add: Callable[..., Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GenericError, match=r"not a regular file$"):
        add("authz-list-file", filename=os.fspath(tmp_path / "pipe"))
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # somebody, who says nothing
    try:
        with pytest.raises(GenericError, match=r"not a regular file$"):
            add("authz-list-file", filename=os.fspath(tmp_path / "pipe"))
    finally:
        os.close(writer)
    assert not tree.objects.children


@given(st.text("ab*?", max_size=8), st.text("ab\n", max_size=10))
def test_globs_match_as_the_shells_do(pattern: str, text: str) -> None:
    assert glob_matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


def test_a_glob_takes_no_time() -> None:
    assert not glob_matches("*a" * 60 + "b", "a" * 3000)
