"""Connections that end before anything is sent where they must not lead: addresses by which clouds give out credentials.

The host stands in the routes file, but what its name resolves to is decided by whoever runs the name server; so the address of the open connection is
looked at, not that of an earlier look-up. No redirect is followed anywhere.
"""

from __future__ import annotations

import ipaddress
import smtplib
import socket
import ssl
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

#: Metadata services that are not on link-local addresses: AWS over IPv6, Alibaba Cloud, Oracle Cloud.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


def is_forbidden(address: str) -> bool:
    """True for an address that no route may lead to.

    >>> [is_forbidden(a) for a in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "10.0.0.7", "127.0.0.1")]
    [True, True, True, False, False]
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed in _METADATA


class ForbiddenAddressError(OSError):
    """The host's name leads to an address that no route may lead to."""


def _checked(connection: socket.socket) -> socket.socket:
    address = connection.getpeername()[0]
    if is_forbidden(address):
        connection.close()
        raise ForbiddenAddressError(f"the host's name leads to {address}, a link-local or metadata address")
    return connection


class _Http(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


class _Https(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


def guarded_pool(ca_file: str) -> urllib3.PoolManager:
    """A pool whose connections are checked, without retries of its own."""
    options: dict[str, Any] = {"ca_certs": ca_file} if ca_file else {}
    pool = urllib3.PoolManager(maxsize=1, retries=False, **options)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


class GuardedSmtp(smtplib.SMTP):
    """SMTP over a checked connection."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return _checked(super()._get_socket(host, port, timeout))


class GuardedSmtpTls(smtplib.SMTP_SSL):
    """SMTP over TLS, its peer checked after the handshake and before any word of ours."""

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        connection: ssl.SSLSocket = super()._get_socket(host, port, timeout)
        _checked(connection)
        return connection
