from __future__ import annotations

from pathlib import Path

import pytest

from console import access
from console.access import Access, Asked, Attempts, ForbiddenError, Role, User, Users, is_password, require
from console.settings import ConsoleSettings, load
from models.errors import SettingsError

HEADERS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is slow on purpose, and a test makes many."""
    monkeypatch.setattr(access, "_N", 16)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def users(tmp_path: Path) -> Users:
    found = Users(tmp_path / "users.json")
    for role in ("viewer", "triager", "admin"):
        found.add(role, role, f"the password of {role}")
    return found


def asked(cookie: str = "", peer: str = "127.0.0.1", **headers: str) -> Asked:
    return Asked(peer, {name.replace("_", "-"): value for name, value in headers.items()}, cookie)


def test_a_password_is_known_again_and_never_kept(users: Users) -> None:
    kept = users.load()["users"]["admin"]["password"]
    assert is_password("the password of admin", kept)
    assert not is_password("the password of admin ", kept)
    assert "password of" not in users.path.read_text()
    assert users.path.stat().st_mode & 0o777 == 0o600


def test_the_hash_is_as_slow_as_it_should_be() -> None:
    assert (access._NOBODY.split("$")[1:4]) == ["16384", "8", "5"]


@pytest.mark.parametrize(
    "kept", ["", "scrypt$1", "plain$secret$a$b$c$d", "scrypt$16$8$1$!!$!!", "scrypt$15$8$1$AAAA$AAAA"]
)
def test_a_damaged_hash_lets_nobody_in(kept: str) -> None:
    assert not is_password("secret", kept)


def test_a_login_gives_a_session_with_the_role_of_the_file(users: Users) -> None:
    gate = Access(ConsoleSettings(users_file=users.path), Clock())
    cookie = gate.log_in("triager", "the password of triager", "::1")
    assert gate.identify(asked(cookie)) == User("triager", Role.TRIAGER, "cookie")
    assert gate.identify(asked("")) is None
    assert gate.log_in("triager", "wrong", "::1") is None
    assert gate.log_in("nobody", "wrong", "::1") is None


def test_a_cookie_that_was_changed_is_none_of_ours(users: Users) -> None:
    gate = Access(ConsoleSettings(users_file=users.path), Clock())
    cookie = gate.log_in("viewer", "the password of viewer", "::1")
    body, sign = cookie.split(".")
    for forged in (body, f"{body}.", f"{body}.{sign[:-1]}0", f"{body[:-4]}AAA=.{sign}", f".{sign}", "é.é", sign):
        assert gate.identify(asked(forged)) is None
    other = Access(ConsoleSettings(users_file=users.path), Clock())
    assert other.identify(asked(cookie)) is None


def test_a_session_ends_by_time_logout_new_password_and_removal(users: Users) -> None:
    clock = Clock()
    gate = Access(ConsoleSettings(users_file=users.path, secret="sixteen characters"), clock)
    first, second = (gate.log_in("viewer", "the password of viewer", "::1") for _ in range(2))
    gate.log_out(first)
    assert gate.identify(asked(first)) is None
    assert gate.identify(asked(second)) is not None
    clock.now += 12 * 3_600 + 1
    assert gate.identify(asked(second)) is None
    clock.now = 1_000.0
    users.add("viewer", "admin", "another password")
    assert gate.identify(asked(second)) is None
    third = gate.log_in("viewer", "another password", "::1")
    assert gate.identify(asked(third)).role is Role.ADMIN
    restarted = Access(ConsoleSettings(users_file=users.path, secret="sixteen characters"), clock)
    assert restarted.identify(asked(third)) is not None


def test_guessing_is_braked_by_address_and_not_for_others(users: Users) -> None:
    clock = Clock()
    gate = Access(ConsoleSettings(users_file=users.path), clock)
    for _ in range(8):
        assert gate.log_in("admin", "guess", "10.0.0.1") is None
    with pytest.raises(ForbiddenError, match="try again in 300 s"):
        gate.log_in("admin", "the password of admin", "10.0.0.1")
    with pytest.raises(ForbiddenError):
        gate.log_in("viewer", "the password of viewer", "10.0.0.1")
    assert gate.log_in("admin", "the password of admin", "10.0.0.2")
    clock.now += 301
    assert gate.log_in("admin", "the password of admin", "10.0.0.1")


def test_a_thousand_right_passwords_brake_nobody_and_tries_at_once_count_before_they_are_looked_at() -> None:
    attempts = Attempts(most=3)
    for _ in range(1_000):
        assert attempts.begin(("ada",), 0.0) == 0
        attempts.succeeded(("ada",))
    assert [attempts.begin(("eve",), 0.0) for _ in range(5)] == [0, 0, 0, 300, 300]


def test_the_brake_keeps_a_bounded_number_of_names() -> None:
    attempts = Attempts(most_keys=10)
    for at in range(100):
        attempts.begin((f"name {at}",), 0.0)
    assert len(attempts._failures) == 10


def test_a_token_is_kept_as_its_hash_and_works_as_bearer(users: Users) -> None:
    token = users.add_token("robot", "viewer")
    gate = Access(ConsoleSettings(users_file=users.path), Clock())
    assert gate.identify(asked(authorization=f"Bearer {token}")) == User("robot", Role.VIEWER, "token")
    assert gate.identify(asked(authorization=f"Bearer {token}x")) is None
    assert gate.identify(asked(authorization=f"Basic {token}")) is None
    assert token not in users.path.read_text()


def test_a_proxy_is_believed_from_its_own_address_only(users: Users) -> None:
    settings = ConsoleSettings(
        users_file=users.path, proxy_user_header="X-User", proxy_role_header="X-Role", proxy_addresses=("10.1.0.0/16",)
    )
    gate = Access(settings, Clock())
    assert gate.identify(asked(peer="10.1.2.3", x_user="ada", x_role="admin")) == User("ada", Role.ADMIN, "proxy")
    assert gate.identify(asked(peer="10.1.2.3", x_user="ada")) == User("ada", Role.VIEWER, "proxy")
    assert gate.identify(asked(peer="10.1.2.3", x_user="triager")).role is Role.TRIAGER
    assert gate.identify(asked(peer="10.1.2.3", x_user="a\nb")) is None
    assert gate.identify(asked(peer="10.2.2.3", x_user="ada", x_role="admin")) is None
    assert gate.identify(asked(peer="", x_user="ada")) is None


def test_without_any_login_whoever_uses_this_machine_is_admin() -> None:
    assert Access(ConsoleSettings(), Clock()).identify(asked()) == User("local", Role.ADMIN, "local")


def test_each_role_may_do_what_the_lower_ones_may() -> None:
    may = {role: [least for least in Role if User("x", role, "").may(least)] for role in Role}
    assert may == {Role.VIEWER: [1], Role.TRIAGER: [1, 2], Role.ADMIN: [1, 2, 3]}
    with pytest.raises(ForbiddenError, match="needs the role admin; x is triager"):
        require(User("x", Role.TRIAGER, ""), Role.ADMIN, "That")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "0.0.0.0"}, "reached from other machines"),
        ({"host": "console.example"}, "reached from other machines"),
        ({"proxy_user_header": "X-User"}, "go together"),
        ({"proxy_addresses": ("10.0.0.0/8",)}, "go together"),
        ({"proxy_user_header": "X-User", "proxy_addresses": ("nowhere",)}, "nowhere"),
        ({"secret": "short"}, "16 characters"),
        ({"loki_url": "localhost:3100"}, "http://host:port"),
        ({"grafana_url": "javascript:alert(1)"}, "http://host:port"),
        ({"prot": 1}, "prot"),
    ],
)
def test_settings_that_open_a_door_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(**given)


def test_settings_come_from_flags_then_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "console.toml"
    file.write_text('port = 1\nkafka = "file:1"\nstore = "models"\n')
    monkeypatch.setenv("DRIFTWOOD_CONSOLE_KAFKA", "environment:1")
    monkeypatch.setenv("DRIFTWOOD_CONSOLE_PORT", "2")
    found = load(file, port=3)
    assert (found.port, found.kafka, found.store) == (3, "environment:1", "models")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ('{"users": {"a": {"role": "king", "password": "x"}}}', "damaged"),
        ("[]", "damaged"),
        (None, "no users file"),
    ],
)
def test_a_users_file_that_cannot_be_used_says_so(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "users.json"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    with pytest.raises(SettingsError, match=said):
        Users(path).load()


def test_a_users_file_that_others_may_write_is_refused(users: Users) -> None:
    users.path.chmod(0o666)
    with pytest.raises(SettingsError, match="chmod 600"):
        Users(users.path).load()


@pytest.mark.parametrize(
    ("name", "role", "password"),
    [("a b", "admin", "long enough"), ("ada", "king", "long enough"), ("ada", "admin", "short")],
)
def test_a_user_that_will_not_do_is_refused_and_changes_nothing(
    users: Users, name: str, role: str, password: str
) -> None:
    before = users.path.read_bytes()
    with pytest.raises(SettingsError):
        users.add(name, role, password)
    assert users.path.read_bytes() == before
