"""Certificates for tests, made by openssl(1) when they are wanted: `Authority(tmp_path / "ca").issue("server", …)`.

A directory of credentials is laid out as `tls-creds-x509` wants it: ca-cert.pem, server-cert.pem and so on.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.programs import LIMIT, QmpClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
CA_EXTENSIONS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign"
EXTENSIONS = {
    "server": "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth",
    "client": "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth",
}
SUBJECTS = {"server": "/O=Example/CN=server", "client": "/C=GB/O=Example/CN=alice"}
ALICE = "C=GB,O=Example,CN=alice"


def openssl(*arguments: object) -> str:
    """Run it; what it says on standard output."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        extensions: str = CA_EXTENSIONS,
        days: int = 2,
        parent: Authority | None = None,
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self.certificate, self._key = directory / "cert.pem", directory / "key.pem"
        subject = f"/O=Example/CN={directory.name}"
        self._sign(
            *(self._key, self.certificate, *_CURVE, "-nodes"),
            subject=subject,
            extensions=extensions,
            days=days,
            authority=parent,
        )

    def issue(
        self,
        directory: Path,
        side: str,
        *,
        subject: str | None = None,
        extensions: str | None = None,
        names: str = "DNS:localhost,IP:127.0.0.1",
        days: int = 2,
        password: str | None = None,
    ) -> Path:
        """Put credentials for one side into a directory, which may hold those for the other."""
        directory.mkdir(exist_ok=True)
        shutil.copyfile(self.certificate, directory / "ca-cert.pem")
        if extensions is None:
            extensions = EXTENSIONS[side]
        if side == "server" and names:
            extensions += f"\nsubjectAltName={names}"
        how = ("-nodes",) if password is None else ("-passout", f"pass:{password}")
        key, certificate = directory / f"{side}-key.pem", directory / f"{side}-cert.pem"
        self._sign(
            *(key, certificate, *_CURVE, *how),
            subject=subject or SUBJECTS[side],
            extensions=extensions,
            days=days,
            authority=self,
        )
        return directory

    def revoke(self, *certificates: Path) -> str:
        """The list of these certificates, which are not to be trusted."""
        work = self.directory
        (work / "index").write_text("")
        configuration = work / "ca.cnf"
        configuration.write_text(
            f"[ca]\ndefault_ca=it\n[it]\ndatabase={work}/index\ndefault_md=sha256\ndefault_crl_days=2\n"
        )
        ours = ("-config", configuration, "-cert", self.certificate, "-keyfile", self._key)
        for certificate in certificates:
            openssl("ca", *ours, "-revoke", certificate)
        return openssl("ca", *ours, "-gencrl")

    @staticmethod
    def _sign(
        key: Path,
        certificate: Path,
        *how: str,
        subject: str,
        extensions: str,
        days: int,
        authority: Authority | None,
    ) -> None:
        request, wanted = key.with_suffix(".csr"), key.with_suffix(".cnf")
        openssl("req", *how, "-utf8", "-keyout", key, "-out", request, "-subj", subject)
        wanted.write_text(extensions)
        signer = (
            ("-signkey", key)
            if authority is None
            else ("-CA", authority.certificate, "-CAkey", authority._key, "-CAcreateserial")
        )
        openssl(
            *("x509", "-req", "-in", request, "-out", certificate, "-days", days, "-extfile", wanted), *signer
        )


@contextlib.contextmanager
def s_client(port: int, *arguments: object) -> Iterator[socket.socket]:
    """A connection by `openssl s_client`: what is sent goes through TLS; the end comes when the server refuses."""
    here, there = socket.socketpair()
    with here, there:
        command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=there.fileno(), stdout=there.fileno(), stderr=subprocess.PIPE
        )
        there.close()
        try:
            yield here
        finally:
            here.close()
            process.terminate()
            process.communicate(timeout=LIMIT)


def as_client(directory: Path) -> tuple[Any, ...]:
    """Arguments of `s_client`: show the client's certificate, and expect that of the authority's server."""
    return (
        *("-CAfile", directory / "ca-cert.pem", "-verify_return_error", "-verify_hostname", "localhost"),
        *("-cert", directory / "client-cert.pem", "-key", directory / "client-key.pem"),
    )


def is_refused(connection: socket.socket) -> bool:
    """Whether the connection ends before a monitor's greeting."""
    try:
        QmpClient(connection, negotiate=False).message()
    except EOFError:
        return True
    return False
