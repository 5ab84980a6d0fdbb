"""The login page: plain HTML, so that nobody without a login reaches more than this."""

from __future__ import annotations

from html import escape
from typing import Final
from urllib.parse import parse_qs

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>Driftwood: log in</title><link rel="stylesheet" href="/static/console.css"></head>
<body class="login-body"><main class="login"><h1>Driftwood</h1><p class="dim">Log in to triage anomalies.</p>
<form id="login" data-next="{next}"><label for="name">Name</label><input id="name" name="name" autocomplete="username" autofocus required maxlength="64">
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required maxlength="1024">
<p id="said" role="alert"></p><button class="btn primary" type="submit">Log in</button></form>
<p class="dim small">No account? An admin makes one with <code>driftwood console --add-user NAME</code>.</p></main>
<script src="/static/login.js"></script></body></html>
"""


def next_path(query: str) -> str:
    """Where to go after the login: a path of this site and nothing else.

    >>> next_path("next=/services"), next_path("next=//evil.example"), next_path("next=https://evil.example"), next_path("")
    ('/services', '/', '/', '/')
    """
    there = parse_qs(query).get("next", ["/"])[0]
    is_ours = (
        there.startswith("/")
        and not there.startswith(("//", "/\\", "/login"))
        and there.isprintable()
        and "\\" not in there
    )
    return there if is_ours else "/"


def login_page(query: str) -> str:
    """The page, as HTML."""
    return _PAGE.replace("{next}", escape(next_path(query), quote=True))
