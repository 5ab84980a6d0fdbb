"""A certificate authority of our own, and certificates for servers on localhost, made with Java's keytool; for tests and trials."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.runtime import java
from flink_jobs.runtime.processes import ServiceError

#: Opens stores that lie in a temporary folder beside their password.
STORE_PASSWORD = "localhost-only"


def _keytool(*arguments: str | Path) -> None:
    # A whole JVM for a moment's work: the optimising compiler would not get to work before it ends.
    command = [java.java_home() / "bin" / "keytool", "-J-XX:TieredStopAtLevel=1", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise ServiceError(f"keytool {arguments[0]} failed: {done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder.

    Attributes:
        store: PKCS12, its key.
        pem: its certificate, for those who trust it.
    """

    folder: Path

    @property
    def store(self) -> Path:
        """The key."""
        return self.folder / "ca.p12"

    @property
    def pem(self) -> Path:
        """The certificate."""
        return self.folder / "ca.pem"

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new one."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        options = ("-alias", "ca", "-keystore", made.store, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
        _keytool(
            "-genkeypair",
            *options,
            "-keyalg",
            "EC",
            "-dname",
            "CN=Driftwood test CA",
            "-validity",
            "30",
            "-ext",
            "bc:c",
        )
        _keytool("-exportcert", *options, "-rfc", "-file", made.pem)
        return made

    def certify(
        self, name: str, *, start: str = "-1d", days: int = 30, names: str = "dns:localhost,ip:127.0.0.1"
    ) -> Path:
        """A PKCS12 store with a key and a certificate of this authority, for a server.

        Args:
            name: of the store.
            start: when it becomes valid, in keytool's form, such as `-10d`.
            days: for how long it is.
            names: what the server is called, as keytool's `san`.
        """
        store = self.folder / f"{name}.p12"
        ours = ("-alias", name, "-keystore", store, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
        authority = ("-alias", "ca", "-keystore", self.store, "-storepass", STORE_PASSWORD)
        asked, given = self.folder / f"{name}.csr", self.folder / f"{name}.crt"
        _keytool("-genkeypair", *ours, "-keyalg", "EC", "-dname", f"CN={name}")
        _keytool("-certreq", *ours, "-file", asked)
        validity = ("-startdate", start, "-validity", str(days))
        _keytool("-gencert", *authority, "-rfc", *validity, "-ext", f"san={names}", "-infile", asked, "-outfile", given)
        trust = ("-alias", "ca", "-keystore", store, "-storepass", STORE_PASSWORD, "-noprompt")
        _keytool("-importcert", *trust, "-file", self.pem)
        _keytool("-importcert", *ours, "-file", given)
        return store
