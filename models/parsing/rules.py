"""What is a secret: the rules of redaction, as data, and the checks a match has to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RedactionRule:
    """One kind of secret, as data.

    Attributes:
        name: what the value is, in the placeholder: lower case, digits, `_` and `-`.
        pattern: Python `re`; the group named `value` (or `bare`) is replaced, else the whole match. It must be linear:
            bound every repetition, or start it at a character that cannot be repeated; lines can be a megabyte long.
        hint: cheap Rust regex (no look-around, best plain words) that finds every line the pattern matches in; all
            rules' hints together are one pass over a column. Empty: the pattern itself.
        prefilter: sharper Rust regex for the lines with the hint; empty: none.
        validator: the name of a check in `VALIDATORS` that a match has to pass, or empty.
        gate: the name of a check in `GATES` that takes the place of the hint, or empty.
        is_anchored: the prefilter (without one, the hint) matches where the pattern begins, and nowhere else it could
            begin; then the pattern is tried at those places only.
    """

    name: str
    pattern: str
    hint: str = ""
    prefilter: str = ""
    validator: str = ""
    gate: str = ""
    is_anchored: bool = False


def luhn(value: str) -> bool:
    """Says whether the digits are those of a payment card: the right length and Luhn's check digit.

    >>> luhn("4111 1111 1111 1111"), luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(c) for c in value if c in "0123456789"]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    total = sum(d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits)))
    return total % 10 == 0


def iban(value: str) -> bool:
    """Says whether the text is an international bank account number (ISO 13616, modulo 97).

    >>> iban("DE89 3704 0044 0532 0130 00"), iban("DE89 3704 0044 0532 0130 01")
    (True, False)
    """
    text = value.replace(" ", "").upper()
    if not 15 <= len(text) <= 34 or not (text.isascii() and text.isalnum()):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


# What stands where a secret would, and is none: answers, states, and values someone has masked already.
_HARMLESS: Final = frozenset(
    [
        "yes",
        "no",
        "true",
        "false",
        "null",
        "none",
        "nil",
        "undefined",
        "empty",
        "missing",
        "required",
        "invalid",
        "incorrect",
        "expired",
        "unknown",
        "wrong",
        "is",
        "was",
        "has",
        "not",
        "ok",
        "set",
        "unset",
        "changed",
        "and",
        "or",
        "for",
        "the",
        "an",
        "in",
        "of",
        "to",
        "from",
        "with",
        "authentication",
        "auth",
        "failed",
    ]
)


def secret(value: str) -> bool:
    """Says whether a value after a secret's name can be one: no placeholder, no word such as `missing`, no mask."""
    bare = value.strip("\\\"'`.,;:!?")
    return (
        bool(bare)
        and bare.lower() not in _HARMLESS
        and not bare.startswith("<redacted:")
        and bool(bare.strip("*xX•.-"))
    )


def bearer(value: str) -> bool:
    """Says whether a word after `Bearer` is a token and no word."""
    return any(c.isdigit() for c in value) or len(value) >= 24


def email(value: str) -> bool:
    """Says whether an address ends in a top-level domain and not in the ending of a picture (`icon@2x.png`)."""
    return value.rpartition(".")[2].lower() not in {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html"}


VALIDATORS: Final[dict[str, Callable[[str], bool]]] = {
    "luhn": luhn,
    "iban": iban,
    "secret": secret,
    "bearer": bearer,
    "email": email,
}

# Names that announce a secret; the match begins at the word itself, so db_password and x-api-key are found too.
# `pwd` before a path is the shell's working directory; `tokens` is a count.
_NAMES: Final = (
    r"passwords?|passwd|passphrase|passcode|secrets?|token(?:_value)?|credentials?|api[_\-. ]?keys?|access[_\-. ]?keys?"
    r"|secret[_\-. ]?keys?|private[_\-. ]?keys?|signing[_\-. ]?keys?|encryption[_\-. ]?keys?|account[_\-. ]?keys?"
    r"|shared[_\-. ]?access[_\-. ]?(?:key|signature)|auth[_\-. ]?keys?|session[_\-. ]?keys?|password[_\-](?:hash|confirmation)"
    r"|passwort|mot[_ ]de[_ ]passe|contrase(?:ñ|n)a|heslo"
)
_PWD: Final = r"pwd(?![\\\"'`]{0,4}\s{0,3}[=:]\s{0,3}[\\\"'`]{0,4}[/~.])"
_Q: Final = r"(?:\\{0,3}[\"'`])"  # a quote, perhaps escaped, as in JSON inside JSON
_BARE_START: Final = r"(?!<redacted:)(?:[^\s\"'`,;&|)\]}>\[]|\[(?![\\\"'`<\[]))"
_PAIR: Final = r"[\w-]{1,40}=(?:\\{0,3}\"[^\"\\\n]{0,512}\\{0,3}\"|[^\s,\"]{1,512})"

# The order matters: a rule that knows where a value begins and ends by its name comes before one that knows a form.
DEFAULT_RULES: Final[tuple[RedactionRule, ...]] = (
    RedactionRule(
        "private-key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        hint=r"-----BEGIN ",
        is_anchored=True,
    ),
    RedactionRule(
        "authorization",
        rf"(?i)authorization{_Q}?\s{{0,3}}(?:=>|[:=,])\s{{0,3}}\[?{_Q}?(?P<value>"
        rf"(?:digest|aws4-hmac-sha256|signature|oauth|hawk)\s{{1,3}}{_PAIR}(?:,\s{{0,3}}{_PAIR}){{0,20}}"
        r"|(?:(?:basic|bearer|token|negotiate|ntlm|apikey|key|scram-\S{1,20})\s{1,3})?"
        rf"{_BARE_START}[^\s\"'`,;\]}})\\]*)",
        hint=r"(?i-u:authorization)",
        validator="secret",
        is_anchored=True,
    ),
    RedactionRule(
        "cookie",
        rf"(?i)cookie{_Q}?\s{{0,3}}(?:=>|[:=])\s{{0,3}}\[?{_Q}?(?P<value>[^\s\"'`\\=;<]{{1,256}}=[^\n\"'`\\]+)",
        hint=r"(?i-u:cookie)",
        validator="secret",
        is_anchored=True,
    ),
    RedactionRule(  # scheme://user:password@host
        "url-password",
        r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@\"'<>]{0,256}:(?P<value>(?!<redacted:)[^\s/\"'<>]{1,512})@",
        hint=r"@",
        prefilter=r"://[^\s/:@]*:[^\s/]*@",
    ),
    RedactionRule(
        "secret",
        rf"(?i)(?:(?:{_NAMES}|{_PWD}){_Q}?\]?\s{{0,3}}(?:=>|:=|[=:])\s{{0,3}}|--(?:[\w-]{{0,40}}-)?(?:{_NAMES})\s{{1,3}}(?!-))"
        r"\[?(?:(?P<q>\\{0,3}[\"'`])(?P<value>(?:(?!(?P=q))(?:\\.|[^\\\n])|\\(?!.))+)"
        rf"|(?P<bare>{_BARE_START}[^\s\"'`,;&|)\]}}>]*))",
        hint=r"(?i-u:passw|passphrase|passcode|secret|token|credential|[_. -]keys?|(?:api|access|secret|private|signing|encryption"
        r"|account|auth|session)keys?|signature|mot[_ ]de[_ ]passe|contrase|heslo|pwd)",
        prefilter=rf"(?i)(?:{_NAMES}|pwd)[\\\"'`\]]{{0,5}}\s{{0,3}}[=:]|--[\w-]{{0,41}}(?:{_NAMES})\s",
        validator="secret",
        is_anchored=True,
    ),
    RedactionRule(
        "jwt", r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{4,}(?:\.[\w-]*)?(?:\.[\w-]+){0,2}", hint=r"eyJ", is_anchored=True
    ),
    RedactionRule(
        "aws-key",
        r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])",
        hint=r"AKIA|ASIA|ABIA|ACCA",
        is_anchored=True,
    ),
    RedactionRule(  # GitHub, GitLab, Slack, Google, Stripe, npm, PyPI, OpenAI and Anthropic, SendGrid, HashiCorp Vault
        "api-token",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|glpat-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}"
        r"|[sr]k_(?:live|test)_[A-Za-z0-9]{10,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{32,}|sk-[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}"
        r"|hv[sb]\.[\w-]{20,})",
        hint=r"gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AIza|[sr]k_live_|[sr]k_test_|npm_|pypi-|sk-|SG\.|hv[sb]\.",
        is_anchored=True,
    ),
    RedactionRule(
        "bearer",
        r"(?i)\bbearer\s{1,3}(?P<value>[\w.~+/-]{8,}={0,2})",
        hint=r"(?i-u:bearer)",
        validator="bearer",
        is_anchored=True,
    ),
    RedactionRule(
        "email",
        r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
        hint=r"@",
        prefilter=r"@[A-Za-z0-9-]+\.[A-Za-z0-9]",
        validator="email",
    ),
    RedactionRule(
        "card",
        r"(?<![\w.-])(?:[2-6][0-9]{12,18}|[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{5})"
        r"(?!\w|[.-][0-9])",
        validator="luhn",
        gate="card",
    ),
)

# Not among the defaults: it costs 0.2 to 0.6 µs a line, since it begins with no rare character.
IBAN_RULE: Final = RedactionRule(
    "iban",
    r"(?<!\w)[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?!\w)",
    hint=r"[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11}| [A-Z0-9]{4} )",
    validator="iban",
)


def all_rules(extra: Iterable[RedactionRule]) -> tuple[RedactionRule, ...]:
    """Gives the default rules with some replaced (same name) or added.

    >>> len(all_rules([RedactionRule("email", "x"), RedactionRule("badge", "B[0-9]{6}")])) - len(DEFAULT_RULES)
    1
    """
    by_name = {rule.name: rule for rule in DEFAULT_RULES} | {rule.name: rule for rule in extra}
    return tuple(by_name.values())
