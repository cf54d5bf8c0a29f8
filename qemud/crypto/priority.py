"""GnuTLS's priority strings, as far as OpenSSL can be told the same.

    versions = parse_priority("NORMAL:-VERS-ALL:+VERS-TLS1.3")         # {"TLSv1_3"}

TLS 1.0 and 1.1 are never spoken: leaving them out is no news, and asking for them is refused.

Source: the GnuTLS manual, section "Priority Strings".
"""

from __future__ import annotations

from qemud.qapi.runtime.errors import GenericError

KEYWORDS = ("NORMAL", "SECURE128")
_VERSIONS = {"VERS-TLS1.2": "TLSv1_2", "VERS-TLS1.3": "TLSv1_3"}
_GONE = {"VERS-TLS1.0", "VERS-TLS1.1", "VERS-SSL3.0"}
_ALL = {"VERS-ALL", "VERS-TLS-ALL"}
_ADD, _REMOVE = ("+",), ("-", "!")


def parse_priority(text: str) -> frozenset[str]:
    """The versions to speak, names of `ssl.TLSVersion`.  GenericError: it says what cannot be done."""
    first, *rest = text.split(":")
    if first not in KEYWORDS:
        raise _refusal(text, first)
    versions = set(_VERSIONS.values())
    for word in rest:
        what = word[1:]
        if word.startswith(_REMOVE) and what in _ALL:
            versions.clear()
        elif word.startswith(_REMOVE) and what in _VERSIONS:
            versions.discard(_VERSIONS[what])
        elif word.startswith(_REMOVE) and what in _GONE:
            continue
        elif word.startswith(_ADD) and what in _ALL:
            versions.update(_VERSIONS.values())
        elif word.startswith(_ADD) and what in _VERSIONS:
            versions.add(_VERSIONS[what])
        else:
            raise _refusal(text, word)
    if not versions:
        raise GenericError(f"TLS priority '{text}' leaves no version of the protocol")
    return frozenset(versions)


def _refusal(text: str, word: str) -> GenericError:
    return GenericError(
        f"TLS priority '{text}' is not supported at '{word}': NORMAL or SECURE128, "
        "then +VERS-… or -VERS-… with TLS1.2, TLS1.3 or ALL"
    )
