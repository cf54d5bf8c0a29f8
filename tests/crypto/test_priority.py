"""GnuTLS's priority strings."""

from __future__ import annotations

import pytest

from qemud.crypto.priority import parse_priority
from qemud.qapi.runtime.errors import GenericError

BOTH, NEW, OLD = {"TLSv1_2", "TLSv1_3"}, {"TLSv1_3"}, {"TLSv1_2"}


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("NORMAL", BOTH),
        ("SECURE128", BOTH),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", NEW),
        ("NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2", OLD),
        ("NORMAL:-VERS-TLS1.0:-VERS-TLS1.1:!VERS-TLS1.3", OLD),
        ("NORMAL:-VERS-ALL:+VERS-ALL", BOTH),
    ],
)
def test_versions(text: str, versions: set[str]) -> None:
    assert parse_priority(text) == versions


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", ""),
        ("nope", "nope"),
        ("SECURE256", "SECURE256"),
        ("NORMAL:+ANON-DH", "+ANON-DH"),
        ("NORMAL:+VERS-TLS1.1", "+VERS-TLS1.1"),
        ("NORMAL::", ""),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, word: str) -> None:
    with pytest.raises(GenericError) as caught:
        parse_priority(text)
    assert str(caught.value).startswith(f"TLS priority '{text}' is not supported at '{word}': ")


def test_no_version_at_all() -> None:
    with pytest.raises(GenericError, match=r"leaves no version of the protocol$"):
        parse_priority("NORMAL:-VERS-ALL")
