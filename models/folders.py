"""Names of folders on disk and in stores; apart from artefact.py, whose libraries take seconds to load."""

from __future__ import annotations

from urllib.parse import quote


def folder_name(service: str) -> str:
    """The folder of a service's model: its name, with what no folder name may hold written as %xx.

    >>> folder_name("shop/cart"), folder_name("..")
    ('shop%2Fcart', '%2E.')
    """
    name = quote(service, safe=" +@=,")
    return "%2E" + name[1:] if name.startswith(".") else name
