r"""What a person reads: one incident, or several at once, as each kind of route takes it.

Everything from a log is hostile until it is made harmless: escape sequences, control characters and marks that turn the direction of text go (`plain`);
in chat it stands in code spans, where nothing is a link, a mention or a picture; mail is plain text, and its subject one line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Final

import orjson

from models.alerts.routes import Links, MailRoute
from models.alerts.telling import OVER
from models.delivery import iso_ms
from models.parsing.cleaning import clean

Incident = Mapping[str, Any]

#: Services and incidents that a message names; the rest is a number.
_NAMED: Final = 8
_LISTED: Final = 20
_CHARS: Final = 500
#: A firing alert ends by itself if nobody says that it is over; a reminder comes each day (models/alerts/telling.py).
_FIRING_MS: Final = 2 * 86_400_000
_WORDS: Final = {
    "opened": "new",
    "escalated": "worse",
    "reopened": "back",
    "reminder": "still open",
    "resolved": "over",
    "merged": "part of another incident",
}


def plain(text: str, limit: int = _CHARS) -> str:
    r"""The text on one line, without anything that a terminal, a browser or a chat program could obey as a character.

    >>> plain("disk\x1b[31m full\n\u202egnp.exe")
    'disk full \\u202egnp.exe'
    """
    spaced = " ".join(clean(text).split())
    shown = "".join(char for char in spaced if char == " " or unicodedata.category(char)[0] not in "CZ")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def harmless(value: Any) -> Any:
    """JSON in which every text is `plain`."""
    if isinstance(value, str):
        return plain(value, 4 * _CHARS)
    if isinstance(value, Mapping):
        return {str(name): harmless(each) for name, each in value.items()}
    return [harmless(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Text:
    """A message in words.

    Attributes:
        title: one line.
        rows: what it says, by heading.
        links: by name; from the settings, with nothing of a log in them but quoted.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    links: Mapping[str, str]

    @property
    def body(self) -> str:
        """The rows and links as lines."""
        lines = [f"{heading}: {text}" for heading, text in self.rows]
        return "\n".join(lines + [f"{name.capitalize()}: {link}" for name, link in self.links.items()])


def text(incident: Incident, links: Links) -> Text:
    """What happened, where, why, and what to do next."""
    kind, worst, cause = incident["message"]["kind"], incident["worst"], incident["cause"]
    title = plain(f"[{incident['severity']}, {_WORDS.get(kind, kind)}] {worst['service']}: {worst['message']}", 140)
    services = [plain(name, 80) for name in incident["services"]]
    where = ", ".join(services[:_NAMED]) + (f" and {len(services) - _NAMED} more" if len(services) > _NAMED else "")
    count = f"{incident['count']:,} {'anomaly' if incident['count'] == 1 else 'anomalies'}"
    rows = [
        ("What", plain(worst["message"])),
        ("Where", where or plain(worst["service"], 80)),
        ("When", f"{iso_ms(incident['started_ms'])} to {iso_ms(incident['last_ms'])}, {count}"),
        ("Why", plain(worst["explanation"])),
    ]
    if cause["anomaly_id"] != worst["anomaly_id"]:
        began = f"{cause['service']}: {cause['message']} ({iso_ms(cause['ts'])}). {cause['explanation']}"
        rows.append(("It probably began with", plain(began)))
    rows += [("State", plain(f"{_WORDS.get(kind, kind)}. {incident['message']['why']}")), ("Next", _next(incident))]
    return Text(title, tuple(rows), links.of(incident))


def _next(incident: Incident) -> str:
    if incident["message"]["kind"] == "merged":
        return f"Go on with incident {incident['merged_into']}."
    if incident["message"]["kind"] in OVER:
        return "Nothing; if it was a false alarm, say so in the console, and it is not told again."
    first = plain(incident["cause"]["service"], 80)
    if incident["requires_immediate_action"]:
        return f"Act now. Look at {first} first."
    return f"Look at {first} first. If it is a false alarm, say so in the console, and it is not told again."


def _texts(incidents: Sequence[Incident], links: Links) -> tuple[str, list[Text]]:
    """The title of the whole, and each incident in words."""
    texts = [text(incident, links) for incident in incidents]
    if len(texts) == 1:
        return texts[0].title, texts
    return f"{len(texts)} incidents, together because there were more than this route may send one by one", texts


# ---- as the routes take it


def webhook(incidents: Sequence[Incident], links: Links) -> bytes:
    """JSON: a title, the text, and the incidents whole, with every text made harmless."""
    title, texts = _texts(incidents, links)
    return orjson.dumps(
        {
            "version": 1,
            "title": title,
            "text": "\n\n".join(f"{each.title}\n{each.body}" for each in texts[:_LISTED]),
            "incidents": [
                {**harmless(incident), "links": each.links} for incident, each in zip(incidents, texts, strict=True)
            ],
        }
    )


def slack(incidents: Sequence[Incident], links: Links) -> bytes:
    """A message of Slack's incoming webhooks, which Mattermost and Rocket.Chat take too: log text only in code spans and plain text."""
    title, texts = _texts(incidents, links)
    if len(texts) == 1:
        lines = [f"*{heading}* {_code(what)}" for heading, what in texts[0].rows]
        lines += [f"<{link}|{name.capitalize()}>" for name, link in texts[0].links.items()]
    else:
        lines = [" ".join([_code(t.title), *(f"<{link}|{n}>" for n, link in t.links.items())]) for t in texts[:_LISTED]]
        if len(texts) > _LISTED:
            lines.append(f"and {len(texts) - _LISTED} more")
    joined = "\n".join(lines)
    return orjson.dumps(
        {
            "text": _code(title),
            "link_names": 0,
            "unfurl_links": False,
            "unfurl_media": False,
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": title[:150], "emoji": False}},
                *(
                    {"type": "section", "text": {"type": "mrkdwn", "text": part, "verbatim": True}}
                    for part in _parts(joined, 2_900)
                ),
            ],
        }
    )


def _code(text: str) -> str:
    """Text as a code span; Slack wants three characters escaped everywhere.

    >>> _code("<!channel> `x`")
    '`&lt;!channel&gt; ′x′`'
    """
    return "`" + text.replace("`", "′").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + "`"


def _parts(text: str, limit: int) -> list[str]:
    """The lines in as many parts as it takes for none to be longer than the limit; no line is that long."""
    parts = [""]
    for line in text.split("\n"):
        if len(parts[-1]) + len(line) + 1 > limit:
            parts.append("")
        parts[-1] += ("\n" if parts[-1] else "") + line[:limit]
    return parts


def labels(incident: Incident) -> dict[str, str]:
    """What an alert is known by in Alertmanager."""
    return {
        "alertname": "DriftwoodIncident",
        "incident_id": incident["incident_id"],
        "severity": incident["severity"],
        "service": plain(incident["worst"]["service"], 128),
    }


def alertmanager(incidents: Sequence[Incident], told: Mapping[str, Mapping[str, str]], links: Links) -> bytes:
    """Alerts of Alertmanager's API v2; one whose labels have changed is told as over under the old ones.

    Args:
        incidents: what to tell.
        told: labels under which an incident was told before, by its id.
        links: where to look next.
    """
    alerts = []
    for incident in incidents:
        at_ms, own = incident["message"]["at_ms"], labels(incident)
        before = told.get(incident["incident_id"]) or own
        is_over = incident["message"]["kind"] in OVER
        words = text(incident, links)
        alert = {
            "annotations": {"summary": words.title, "description": words.body},
            "startsAt": iso_ms(incident["opened_at_ms"]),
            "generatorURL": next(iter(words.links.values()), ""),
        }
        if before != own or is_over:
            alerts.append({**alert, "labels": dict(before), "endsAt": iso_ms(at_ms)})
        if not is_over:
            alerts.append({**alert, "labels": own, "endsAt": iso_ms(at_ms + _FIRING_MS)})
    return orjson.dumps(alerts)


def email(incidents: Sequence[Incident], route: MailRoute, links: Links, key: str) -> bytes:
    """A mail of plain text; sent again it has the same Message-ID."""
    title, texts = _texts(incidents, links)
    mail = EmailMessage(policy=SMTP.clone(max_line_length=998))
    mail["Subject"] = f"Driftwood {plain(title, 140)}"
    mail["From"], mail["To"] = route.sender, ", ".join(route.to)
    mail["Message-ID"] = f"<{key}@{route.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content("\n\n".join(f"{each.title}\n\n{each.body}" for each in texts[:_LISTED]) + "\n", cte="base64")
    return mail.as_bytes()
