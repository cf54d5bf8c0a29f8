"""Who may come in: objects that say yes or no to an identity.

    await authorize(objects, "authz0", "C=GB,O=Example,CN=alice")        # TlsError: no

An object is looked up when somebody knocks, as in QEMU: it may be replaced meanwhile, and while it is missing nobody comes in.

Source of the texts: QEMU 10.0, authz/.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from qemud._generated.types.authz import (
    AuthZListFileProperties,
    AuthZListProperties,
    AuthZSimpleProperties,
    QAuthZListFormat,
    QAuthZListPolicy,
)
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud.qom.object import Object


class Authorization(UserCreatable, type_name="authz", abstract=True):
    """What says who may come in."""

    async def allows(self, identity: str) -> bool:
        """Whether that one may.  GenericError: it cannot be told, which is a no."""
        raise GenericError(f"object type '{self.type_name}' is abstract: {identity} is denied")


class AuthorizationSimple(
    Authorization, type_name="authz-simple", options=AuthZSimpleProperties, interfaces=("user-creatable",)
):
    """A single identity."""

    options: AuthZSimpleProperties

    async def allows(self, identity: str) -> bool:
        """As in the base."""
        return identity == self.options.identity


class AuthorizationList(
    Authorization, type_name="authz-list", options=AuthZListProperties, interfaces=("user-creatable",)
):
    """A list of rules."""

    options: AuthZListProperties

    async def allows(self, identity: str) -> bool:
        """As in the base."""
        return decide(self.options, identity)


class AuthorizationListFile(
    Authorization,
    type_name="authz-list-file",
    options=AuthZListFileProperties,
    interfaces=("user-creatable",),
):
    """A list of rules in a file."""

    options: AuthZListFileProperties

    async def complete(self) -> None:
        """Read the file, so that a mistake is told now."""
        name = self.options.filename
        self._rules = await asyncio.to_thread(read_rules, name)
        if self.options.refresh:
            if os.path.dirname(name) in {"", "."}:
                raise GenericError("Filename must be an absolute path")
            if os.path.basename(name) in {"", "."}:
                raise GenericError("Path has no trailing filename component")

    async def allows(self, identity: str) -> bool:
        """As in the base, by what is in the file now."""
        if self.options.refresh:
            # Read for each decision: what is denied stays denied from the moment the file says so, and connections are few.
            return decide(await asyncio.to_thread(read_rules, self.options.filename), identity)
        return decide(self._rules, identity)


def decide(rules: AuthZListProperties, identity: str) -> bool:
    """What the first rule that matches says."""
    policy = rules.policy
    for rule in rules.rules:
        glob = rule.format is QAuthZListFormat.GLOB
        if glob_matches(rule.match, identity) if glob else rule.match == identity:
            policy = rule.policy
            break
    return policy is QAuthZListPolicy.ALLOW


def glob_matches(pattern: str, text: str) -> bool:
    """Whether a pattern with `*` and `?` matches all of a text, in time of no more than the product of their lengths."""
    place = index = 0
    star = restart = -1
    while index < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, restart = place, index
            place += 1
        elif place < len(pattern) and pattern[place] in {"?", text[index]}:
            place += 1
            index += 1
        elif star >= 0:  # the last star takes one more
            restart += 1
            place, index = star + 1, restart
        else:
            return False
    return not pattern[place:].strip("*")


def read_rules(path: str) -> AuthZListProperties:
    """The rules in a file; in a worker thread.  GenericError."""
    from qemud.crypto.files import read_file
    from qemud.qapi.runtime.document import read_document

    if not os.path.isfile(path):  # a pipe could keep the reader waiting for ever
        read_file(path, "Unable to read '{}': {}")
        raise GenericError(f"Unable to read '{path}': not a regular file")
    document = read_document(path)
    if not isinstance(document.value, dict):
        raise GenericError(f"File '{path}' must contain a JSON object")
    rules: AuthZListProperties = document.typed("AuthZListProperties")
    return rules


async def authorize(objects: Mapping[str, Object], name: str, identity: str) -> None:
    """Ask the object of that id.  GenericError: the answer is no."""
    found = objects.get(name)
    if found is None or not found.in_use:
        raise GenericError(f"Cannot find QAuthZ object ID {name}")
    if not isinstance(found, Authorization):
        raise GenericError(f"Object '{name}' is not a QAuthZ subclass")
    if not await found.allows(identity):
        raise GenericError(f"TLS x509 authz check for {identity} is denied")
