"""Redis as URLs of every form name it: with TLS, behind sentinels, as a cluster. Private, on free ports."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import redis
import redis.exceptions

from penstock.testing import services
from penstock.testing.harness import wait_until
from penstock.testing.server import Server, ServiceMissingError, answers, free_port

SERVICE = "jobs"


class Certificates(NamedTuple):
    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate of it for 127.0.0.1."""
    made = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    ca_key, request, names = folder / "ca.key", folder / "server.csr", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    for arguments in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=penstock tests", "-keyout", ca_key, "-out", made.authority],
        [*new, "-subj", "/CN=localhost", "-keyout", made.key, "-out", request],
        ["x509", "-req", "-days", "2", "-in", request, "-CA", made.authority, "-CAkey", ca_key, "-CAcreateserial",
         "-extfile", names, "-out", made.certificate],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return made


@contextlib.contextmanager
def tls_redis(folder: Path) -> Iterator[str]:
    """Run a Redis that speaks TLS; yield its URL, with the authority. Skips, loudly, where Redis was built without."""
    made, port = certificates(folder), free_port()
    server = services.new_redis(
        "--tls-port", str(port), "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key),
        "--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        server.start()
    except ServiceMissingError:
        if services.required():
            raise
        services.SKIPPED["redis with TLS"] = "this redis-server was built without TLS; install Debian's redis-server"
        pytest.skip(services.SKIPPED["redis with TLS"])
    with server:
        yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={made.authority}"


class Guarded:
    """A master, its replica and a sentinel."""

    def __init__(self, folder: Path) -> None:
        self.first = services.new_redis("--repl-diskless-sync-delay", "0")
        first = urlsplit(self.first.url).port
        self.second = services.new_redis("--replicaof", f"127.0.0.1 {first}")
        port, place = free_port(), folder / "sentinel"
        place.mkdir()
        settings = place / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {place}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {first} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
        )
        self.sentinel = Server(
            "redis-sentinel",
            folder=place,
            url=f"127.0.0.1:{port}",
            commands=[["redis-server", str(settings), "--sentinel"]],
            ready=answers(port, b"PING\r\n", b"+PONG"),
        )
        nobody = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/{SERVICE}/0"

    def master(self) -> tuple[str, int]:
        """Ask the sentinel."""
        with redis.Redis.from_url(f"redis://{self.sentinel.url}") as client:
            return client.sentinel_get_master_addr_by_name(SERVICE)

    def promote(self) -> None:
        """Kill the master and wait until the sentinel names the replica."""
        self.first.kill()
        port = urlsplit(self.second.url).port
        wait_until(lambda: self.master()[1] == port, 30, "the sentinel promotes the replica")

    def __enter__(self) -> Guarded:
        self.first.start()
        self.second.start()
        with redis.Redis.from_url(self.second.url) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", 20, "the replica follows")
        self.sentinel.start()
        with redis.Redis.from_url(f"redis://{self.sentinel.url}") as client:
            wait_until(lambda: client.sentinel_slaves(SERVICE), 30, "the sentinel knows the replica")
        return self

    def __exit__(self, *_exc: object) -> None:
        for server in (self.sentinel, self.second, self.first):
            server.close()


class Cluster:
    """Three nodes that share the slots."""

    def __init__(self) -> None:
        self.nodes = [
            services.new_redis("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--appendonly", "no")
            for _ in range(3)
        ]
        hosts = [f"127.0.0.1:{urlsplit(node.url).port}" for node in self.nodes]
        self.url = f"redis+cluster://{','.join(hosts)}"

    def clients(self) -> list[redis.Redis]:
        return [redis.Redis.from_url(node.url) for node in self.nodes]

    def __enter__(self) -> Cluster:
        for node in self.nodes:
            node.start()
        clients = self.clients()
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(number * 16384 // 3, (number + 1) * 16384 // 3))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", urlsplit(node.url).port)

        def whole() -> bool:
            told = [client.execute_command("CLUSTER", "INFO") for client in clients]
            return all(b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info for info in told)

        wait_until(whole, 30, "the nodes are a cluster")
        for client in clients:
            client.close()
        return self

    def __exit__(self, *_exc: object) -> None:
        for node in self.nodes:
            node.close()
