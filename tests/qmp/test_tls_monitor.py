"""A monitor over TCP: with TLS, by `openssl s_client`; and without a host, for this machine only."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.pki import Authority, as_client, is_refused, s_client
from tests.programs import QmpClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BARE = ("-machine", "none", "-nodefaults", "-display", "none")


def port_of(program: Program, label: str) -> int:
    names = {info["label"]: info["filename"] for info in program.qmp.command("query-chardev")}
    return int(names[label].partition(" <-> ")[0].removesuffix(",server=on").rpartition(":")[2])


@pytest.mark.needs("openssl")
def test_qmp_over_tls(daemon: Starter, tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    pki = ca.issue(ca.issue(tmp_path / "pki", "server"), "client")
    mallory = ca.issue(tmp_path / "mallory", "client", subject="/C=GB/O=Example/CN=mallory")
    rule = '{"match":"C=GB,O=Example,CN=alice","policy":"allow"}'
    program = daemon(
        *BARE,
        *("-object", f"tls-creds-x509,id=tls,dir={pki},endpoint=server"),
        *("-object", f'{{"qom-type":"authz-list","id":"who","rules":[{rule}]}}'),
        *("-qmp", "tcp:127.0.0.1:0,server=on,wait=off,tls-creds=tls,tls-authz=who"),
    )
    port = port_of(program, "compat_monitor0")
    with s_client(port, "-CAfile", pki / "ca-cert.pem") as nobody:
        assert is_refused(nobody)
    with s_client(port, *as_client(mallory)) as stranger:
        assert is_refused(stranger)
    with s_client(port, *as_client(pki)) as connection:
        client = QmpClient(connection)
        assert client.command("query-status")["status"] == "running"
        children = {info["name"]: info["type"] for info in client.command("qom-list", path="/objects")}
        assert children["tls"] == "child<tls-creds-x509>"
        assert len(client.command("query-qmp-schema")) > 100
    assert "refused: Verify failed: No certificate was found." in program.stderr
    assert "authz check for C=GB,O=Example,CN=mallory is denied" in program.stderr


def test_credentials_that_are_not_there_end_the_start(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*BARE, "-object", f"tls-creds-x509,id=tls,dir={tmp_path},endpoint=server", qmp=False)
    assert program.wait() == 1
    assert program.stderr.endswith(
        f": Unable to access credentials {os.fspath(tmp_path)}/ca-cert.pem: No such file or directory\n"
    )


def test_without_a_host_only_this_machine_is_served(daemon: Starter) -> None:
    program = daemon(*BARE, "-qmp", "tcp::0,server=on,wait=off")
    port = port_of(program, "compat_monitor0")
    with socket.create_connection(("localhost", port)) as connection:
        assert QmpClient(connection).command("query-status")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):  # without a network there is no other address
            probe.connect(("192.0.2.1", 9))  # no packet is sent; it tells this machine's own address
        own = probe.getsockname()[0]
    if not own.startswith(("127.", "0.")):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, port))


def test_rules_are_written_in_json(daemon: Starter) -> None:
    program = daemon(*BARE, "-object", "authz-list,id=a,rules=x", qmp=False)
    assert program.wait() == 1
    assert program.stderr.endswith(
        ": -object authz-list,id=a,rules=x: Parameter 'rules' expects an array, which is written in JSON only\n"
    )
