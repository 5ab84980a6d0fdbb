"""Who may do what: users with scrypt hashes, tokens, a trusted proxy, sessions, and the brake on guessing.

```
request ─→ identify ─→ User (name, role) or None
             ├ proxy's header, from the proxy's address only
             ├ Authorization: Bearer TOKEN        (programs)
             ├ session cookie, signed             (people)
             └ nothing configured, on loopback:   one local admin
```

A password is never kept: the file has salt and scrypt hash. A cookie names the user and the hash it was made under, so that a new password, a
removed user or another role act at the next request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import orjson

from console.settings import ConsoleSettings
from models.errors import DriftwoodError, SettingsError

COOKIE: Final = "driftwood_session"
#: OWASP's set for 16 MiB of memory a login.
_N, _R, _P = 1 << 14, 8, 5
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_MIN_PASSWORD: Final = 10
_MAX_PASSWORD: Final = 1_024


class Role(IntEnum):
    """What a user may do; each role may do what the ones below it may."""

    VIEWER = 1  # look
    TRIAGER = 2  # mark, undo, mute
    ADMIN = 3  # modes, models, budgets, releases

    @classmethod
    def of(cls, name: str) -> Role | None:
        """The role of a name."""
        return cls.__members__.get(name.upper())


@dataclass(frozen=True, slots=True)
class User:
    """Who asks; `how` he was known: local, cookie, token or proxy."""

    name: str
    role: Role
    how: str

    def may(self, least: Role) -> bool:
        """Whether the role is high enough."""
        return self.role >= least


class ForbiddenError(DriftwoodError):
    """The user's role is too low for what was asked."""


def require(user: User, least: Role, what: str) -> None:
    """Pass when the user may do it.

    Raises:
        ForbiddenError: with who may.
    """
    if not user.may(least):
        raise ForbiddenError(
            f"{what} needs the role {least.name.lower()}; {user.name} is {user.role.name.lower()}. Ask an admin."
        )


def hash_password(password: str, salt: bytes | None = None) -> str:
    """The password as the users file keeps it.

    >>> hash_password("correct horse", b"0123456789abcdef").split("$")[:4]
    ['scrypt', '16384', '8', '5']
    """
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, dklen=32, maxmem=64 << 20)
    return "$".join(
        ("scrypt", str(_N), str(_R), str(_P), base64.b64encode(salt).decode(), base64.b64encode(digest).decode())
    )


def is_password(password: str, kept: str) -> bool:
    """Whether this is the password whose hash was kept."""
    try:
        name, n, r, p, salt, digest = kept.split("$")
        if name != "scrypt" or len(password) > _MAX_PASSWORD:
            return False
        expected = base64.b64decode(digest)
        found = hashlib.scrypt(
            password.encode(),
            salt=base64.b64decode(salt),
            n=int(n),
            r=int(r),
            p=int(p),
            dklen=len(expected),
            maxmem=256 << 20,
        )
    except ValueError:
        return False
    return hmac.compare_digest(found, expected)


#: Compared with when there is no such user, so that the answer takes as long.
_NOBODY: Final = f"scrypt${_N}${_R}${_P}${base64.b64encode(bytes(16)).decode()}${base64.b64encode(bytes(32)).decode()}"


@dataclass
class Users:
    """The users file: `{"users": {name: {"role", "password"}}, "tokens": {name: {"role", "sha256"}}}`, read again when it changes."""

    path: Path
    _seen: tuple[int, int] = (-1, -1)
    _data: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> dict[str, dict[str, dict[str, str]]]:
        """The file's contents.

        Raises:
            SettingsError: it is missing, damaged, or others may write to it.
        """
        with self._lock:
            try:
                stat = self.path.stat()
                if stat.st_mode & 0o022:
                    raise SettingsError(f"{self.path} may be written by others; run chmod 600 {self.path}.")
                if (stat.st_mtime_ns, stat.st_ino) == self._seen:
                    return self._data
                found = orjson.loads(self.path.read_bytes())
                data = {kind: dict(found.get(kind, {})) for kind in ("users", "tokens")}
                for entries, secret in ((data["users"], "password"), (data["tokens"], "sha256")):
                    for name, entry in entries.items():
                        if Role.of(entry["role"]) is None or not isinstance(entry.get(secret, ""), str):
                            raise ValueError(f"the entry of {name!r}")
            except FileNotFoundError:
                raise SettingsError(
                    f"There is no users file {self.path}; make it with `driftwood console --users-file {self.path} --add-user NAME --role admin`."
                ) from None
            except (orjson.JSONDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise SettingsError(
                    f"The users file {self.path} is damaged ({error}); restore it, or make it anew."
                ) from error
            except OSError as error:
                raise SettingsError(f"The users file {self.path} cannot be read: {error.strerror}.") from error
            self._seen, self._data = (stat.st_mtime_ns, stat.st_ino), data
            return data

    def add(self, name: str, role: str, password: str) -> None:
        """Add a user, or give one another password and role.

        Raises:
            SettingsError: the name, role or password will not do, or the file cannot be written.
        """
        if len(password) < _MIN_PASSWORD or len(password) > _MAX_PASSWORD:
            raise SettingsError(f"A password has {_MIN_PASSWORD} to {_MAX_PASSWORD:,} characters; choose another.")
        self._put("users", name, {"role": role, "password": hash_password(password)})

    def add_token(self, name: str, role: str) -> str:
        """Add a token for a program and give it; it is kept as its hash only.

        Raises:
            SettingsError: the name or role will not do, or the file cannot be written.
        """
        token = "dw_" + secrets.token_urlsafe(32)
        self._put("tokens", name, {"role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()})
        return token

    def _put(self, kind: str, name: str, entry: dict[str, str]) -> None:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no user name: letters, digits and . _ @ + -, 64 at most.")
        if Role.of(entry["role"]) is None:
            raise SettingsError(f"There is no role {entry['role']!r}; choose viewer, triager or admin.")
        data = self.load() if self.path.exists() else {"users": {}, "tokens": {}}
        data[kind][name] = entry
        try:
            handle, fresh = tempfile.mkstemp(prefix=".users-", dir=self.path.parent)  # mode 600
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(fresh).replace(self.path)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be written: {error.strerror}; choose another users_file."
            ) from error


@dataclass
class Attempts:
    """The brake on guessing passwords: so many failures in `window_s` by name or by address, then none for a while.

    State: `most_keys` keys with `most` times each.
    """

    most: int = 8
    window_s: float = 300.0
    most_keys: int = 10_000
    _failures: dict[str, deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, keys: tuple[str, ...], now_s: float) -> float:
        """Count a try as failed until it has succeeded, and give 0; or give the seconds until one is heard again.

        Counting before the password is looked at, many tries at once gain nothing.
        """
        with self._lock:
            waits = [0.0]
            for key in keys:
                failures = self._failures.get(key, deque())
                while failures and failures[0] <= now_s - self.window_s:
                    failures.popleft()
                if len(failures) >= self.most:
                    waits.append(failures[0] + self.window_s - now_s)
            if max(waits) > 0:
                return max(waits)
            for key in keys:
                self._failures.setdefault(key, deque(maxlen=self.most)).append(now_s)
            while len(self._failures) > self.most_keys:
                self._failures.pop(next(iter(self._failures)))
            return 0.0

    def succeeded(self, keys: tuple[str, ...]) -> None:
        """The try that was begun last was no failure."""
        with self._lock:
            for key in keys:
                failures = self._failures.get(key)
                if failures:
                    failures.pop()


@dataclass(frozen=True, slots=True)
class Asked:
    """What identifies a request: its peer's address, its headers in lower case, its session cookie."""

    peer: str
    headers: Mapping[str, str]
    cookie: str


class Access:
    """Says who asks.

    Args:
        settings: users file, proxy and secret.
        now_s: seconds since the epoch.
    """

    def __init__(self, settings: ConsoleSettings, now_s: Callable[[], float]) -> None:
        self.settings = settings
        self.users = None if settings.users_file is None else Users(settings.users_file)
        self.attempts = Attempts()
        self._now_s = now_s
        self._key = settings.secret.get_secret_value().encode() or secrets.token_bytes(32)
        self._revoked: dict[str, float] = {}  # nonce → when it would have ended anyway
        self._proxies = [ip_network(address, strict=False) for address in settings.proxy_addresses]
        if self.users is not None:
            self.users.load()

    @property
    def is_local(self) -> bool:
        """No login is configured: whoever reaches the loopback address is admin."""
        return self.users is None and not self._proxies

    def identify(self, asked: Asked) -> User | None:
        """Who asks; None if nobody we know."""
        if self.is_local:
            return User("local", Role.ADMIN, "local")
        return self._by_proxy(asked) or self._by_token(asked) or self._by_cookie(asked.cookie)

    def log_in(self, name: str, password: str, peer: str) -> str | None:
        """A session cookie's value; None where name or password is wrong. Takes a quarter of a second: call it in a thread.

        Raises:
            ForbiddenError: too many failures; with how long to wait.
        """
        # One account is not locked by whoever knows its name: the brake is on the name from this address, and wider on the address.
        keys = (f"{name}\0{peer}", f"\0{peer}")
        wait_s = self.attempts.begin(keys, self._now_s())
        if wait_s > 0:
            raise ForbiddenError(f"Too many failed logins; try again in {wait_s:.0f} s.")
        entry = self.users.load()["users"].get(name) if self.users is not None else None
        is_right = is_password(password, entry.get("password", _NOBODY) if entry else _NOBODY)
        if entry is None or not is_right:
            return None
        self.attempts.succeeded(keys)
        return self._sign(
            {
                "user": name,
                "until": int(self._now_s() + self.settings.session_hours * 3_600),
                "nonce": secrets.token_urlsafe(12),
                "under": _fingerprint(entry["password"]),
            }
        )

    def log_out(self, cookie: str) -> None:
        """End a session before its time."""
        session = self._session(cookie)
        if session is not None:
            now_s = self._now_s()
            self._revoked = {nonce: until for nonce, until in self._revoked.items() if until > now_s}
            self._revoked[session["nonce"]] = session["until"]

    def _by_proxy(self, asked: Asked) -> User | None:
        settings = self.settings
        try:
            is_proxy = any(ip_address(asked.peer) in network for network in self._proxies)
        except ValueError:
            return None
        name = asked.headers.get(settings.proxy_user_header.lower(), "") if is_proxy else ""
        if not _NAME.fullmatch(name):
            return None
        named = asked.headers.get(settings.proxy_role_header.lower(), "") if settings.proxy_role_header else ""
        entry = self.users.load()["users"].get(name) if self.users is not None else None
        role = Role.of(named) or Role.of(entry["role"] if entry else settings.proxy_default_role)
        return User(name, role or Role.VIEWER, "proxy")

    def _by_token(self, asked: Asked) -> User | None:
        kind, _, token = asked.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token or self.users is None:
            return None
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        for name, entry in self.users.load()["tokens"].items():
            if hmac.compare_digest(entry.get("sha256", ""), digest):
                return User(name, Role.of(entry["role"]) or Role.VIEWER, "token")
        return None

    def _by_cookie(self, cookie: str) -> User | None:
        session = self._session(cookie)
        if session is None or self.users is None:
            return None
        entry = self.users.load()["users"].get(session["user"])
        if entry is None or session["under"] != _fingerprint(entry.get("password", "")):
            return None
        return User(session["user"], Role.of(entry["role"]) or Role.VIEWER, "cookie")

    def _session(self, cookie: str) -> dict[str, Any] | None:
        body, _, sign = cookie.partition(".")
        expected = hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
        if not body or not hmac.compare_digest(sign.encode(), expected.encode()):
            return None
        session: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(body))
        is_over = session["until"] <= self._now_s() or session["nonce"] in self._revoked
        return None if is_over else session

    def _sign(self, session: Mapping[str, object]) -> str:
        body = base64.urlsafe_b64encode(orjson.dumps(session)).decode()
        return f"{body}.{hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()}"


def _fingerprint(kept: str) -> str:
    return hashlib.sha256(kept.encode()).hexdigest()[:16]
