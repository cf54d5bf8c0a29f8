"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

_AUTHZ = "qemud.crypto.authz"
_CREDENTIALS = "qemud.crypto.credentials"
_CREATABLE = ("user-creatable",)

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry("authz", "object", f"{_AUTHZ}:Authorization", abstract=True),
    TypeEntry(
        "authz-list",
        "authz",
        f"{_AUTHZ}:AuthorizationList",
        options="AuthZListProperties",
        interfaces=_CREATABLE,
    ),
    TypeEntry(
        "authz-list-file",
        "authz",
        f"{_AUTHZ}:AuthorizationListFile",
        options="AuthZListFileProperties",
        interfaces=_CREATABLE,
    ),
    TypeEntry(
        "authz-simple",
        "authz",
        f"{_AUTHZ}:AuthorizationSimple",
        options="AuthZSimpleProperties",
        interfaces=_CREATABLE,
    ),
    TypeEntry("tls-creds", "object", f"{_CREDENTIALS}:TlsCredentials", abstract=True),
    TypeEntry(
        "tls-creds-psk",
        "tls-creds",
        f"{_CREDENTIALS}:TlsCredentialsPsk",
        options="TlsCredsPskProperties",
        interfaces=_CREATABLE,
    ),
    TypeEntry(
        "tls-creds-x509",
        "tls-creds",
        f"{_CREDENTIALS}:TlsCredentialsX509",
        options="TlsCredsX509Properties",
        interfaces=_CREATABLE,
    ),
)
