"""The Python Kafka client, set up by the properties of the job's Java client, and why no broker answers, in words.

One set of properties serves both: `security.protocol`, `sasl.mechanism`, `sasl.jaas.config` and PEM files for TLS
(`ssl.truststore.type=PEM`, `ssl.truststore.location`), which Java and Python both read.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from models.errors import SettingsError

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

#: Kafka property → keyword of kafka-python; those of librdkafka beside those of Java.
_KEYWORDS: Final = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
_LOGIN: Final = re.compile(r'(username|password)\s*=\s*"((?:[^"\\]|\\.)*)"')
_FILES: Final = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
_PROBE_S: Final = 5.0


def security_keywords(properties: Mapping[str, str]) -> dict[str, Any]:
    """The keywords of kafka-python that say how to reach the brokers; all other properties are left out.

    Raises:
        SettingsError: a file is missing, or of a format that only Java reads.

    >>> security_keywords({"security.protocol": "SASL_SSL", "sasl.jaas.config": 'Plain required username="a" password="b";'})
    {'security_protocol': 'SASL_SSL', 'sasl_plain_username': 'a', 'sasl_plain_password': 'b'}
    """
    for store in ("truststore", "keystore"):
        location, kind = (properties.get(f"ssl.{store}.{name}", "") for name in ("location", "type"))
        if location and (kind.upper() in ("JKS", "PKCS12") or location.endswith((".jks", ".p12", ".pfx"))):
            raise SettingsError(
                f"ssl.{store}.location={location} is a {kind or 'Java'} store, which Python cannot read. Export it as PEM (keytool -exportcert -rfc, "
                f"or openssl pkcs12) and set ssl.{store}.type=PEM: Java reads that too."
            )
    keywords: dict[str, Any] = {keyword: properties[name] for name, keyword in _KEYWORDS.items() if name in properties}
    if "ssl.keystore.location" in properties:  # a PEM store holds the key and its certificates
        keywords["ssl_certfile"] = keywords["ssl_keyfile"] = properties["ssl.keystore.location"]
    if properties.get("ssl.endpoint.identification.algorithm", "https").lower() != "https":
        keywords["ssl_check_hostname"] = False
    for part, value in _LOGIN.findall(properties.get("sasl.jaas.config", "")):
        keywords[f"sasl_plain_{part}"] = re.sub(r"\\(.)", r"\1", value)
    for name in _FILES:
        if name in keywords and not Path(keywords[name]).is_file():
            raise SettingsError(f"{keywords[name]} ({name.replace('_', '.')}) is not there; correct kafka_properties.")
    return keywords


def unreachable(servers: str, keywords: Mapping[str, Any], error: BaseException) -> SettingsError:
    """Why the brokers cannot be used, found by trying each of them again step by step: name, port, TLS, login."""
    found = [why for server in servers.split(",") if (why := fault(server, keywords))]
    text = f"{type(error).__name__}: {error}"
    if found:
        return SettingsError(f"The Kafka broker at {servers} cannot be used: {'; '.join(found)}")
    if "auth" in text.lower() or str(keywords.get("security_protocol", "")).startswith("SASL"):
        return SettingsError(
            f"The Kafka broker at {servers} answers, but does not let us in ({text}); check user, password and sasl.mechanism in "
            "kafka_properties, and the user's rights."
        )
    return SettingsError(
        f"The Kafka broker at {servers} cannot be reached ({text}); check the address, and kafka_properties if it asks for a login or TLS."
    )


def fault(server: str, keywords: Mapping[str, Any]) -> str | None:
    """What is wrong with the way to one broker, up to its login, and what to do; None if nothing is."""
    host, _, port = server.strip().rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_S) as opened:
            if str(keywords.get("security_protocol", "PLAINTEXT")).endswith("SSL"):
                return _tls_fault(opened, host, keywords)
            return _plain_fault(opened, str(keywords.get("security_protocol", "PLAINTEXT")))
    except ValueError:
        return f"{server!r} is no host:port; write kafka://host:9092/topic."
    except socket.gaierror:
        return f"the name {host!r} is not known here; check its spelling, and the DNS."
    except TimeoutError:
        return f"{server} does not answer within {_PROBE_S:g} s; check the port, and firewalls on the way."
    except OSError as error:
        return f"{server} takes no connection ({error.strerror or error}); check that the broker runs, and the port."


def _tls_fault(opened: socket.socket, host: str, keywords: Mapping[str, Any]) -> str | None:
    try:
        context = ssl.create_default_context(cafile=keywords.get("ssl_cafile"))
    except ssl.SSLError:
        return f"{keywords.get('ssl_cafile')} holds no certificates in PEM; correct ssl.truststore.location."
    context.check_hostname = bool(keywords.get("ssl_check_hostname", True))
    try:
        if "ssl_certfile" in keywords:
            context.load_cert_chain(keywords["ssl_certfile"], keywords.get("ssl_keyfile"), keywords.get("ssl_password"))
    except ssl.SSLError as error:
        return f"the client certificate {keywords['ssl_certfile']} cannot be used ({error.reason}); it must be PEM with its key."
    try:
        context.wrap_socket(opened, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return _certificate_fault(error, host, keywords)
    except ssl.SSLError as error:
        return f"no TLS comes about ({error.reason or error}): the port may speak none; take the broker's TLS port, or another security.protocol."
    except TimeoutError:
        return f"the port takes the connection, but answers no TLS within {_PROBE_S:g} s; take the broker's TLS port."
    except OSError as error:
        return f"the connection broke off during the TLS handshake ({error}); the broker may ask for a client certificate (ssl.keystore.location)."
    return None


def _certificate_fault(error: ssl.SSLCertVerificationError, host: str, keywords: Mapping[str, Any]) -> str:
    said = error.verify_message.rstrip(".")
    if "expired" in said:
        return f"its certificate is not valid any more ({said}); renew it at the broker."
    if "not yet valid" in said:
        return f"its certificate is not valid yet ({said}); check the clocks of this machine and the broker."
    if "mismatch" in said or "not valid for" in said:
        return f"its certificate is for another name than {host!r} ({said}); use a name that is in it."
    trusted = keywords.get("ssl_cafile") or "the system's certificates"
    return f"its certificate is not signed by any in {trusted} ({said}); set ssl.truststore.location to the CA's certificate in PEM."


def _plain_fault(opened: socket.socket, protocol: str) -> str | None:
    """Whether a port that we would talk to without TLS speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only whether it speaks TLS is asked
    opened.settimeout(1.0)
    try:
        context.wrap_socket(opened).close()
    except OSError:  # ssl.SSLError among them: no TLS, as expected
        return None
    return f"the port speaks TLS, and security.protocol is {protocol}; set it to SSL or SASL_SSL in kafka_properties."


def topic_settings(admin: KafkaAdminClient, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """The settings of topics that are not the broker's defaults."""
    from kafka.admin import ConfigResource, ConfigResourceType

    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
    return {
        topic: {name: str(value["value"]) for name, value in settings.items()}
        for by_topic in described.values()
        for topic, settings in by_topic.items()
    }
