"""From the bytes of any collector to records of one schema, without secrets.

`parse` is the way in; `ParseParams` says what may be set. See `shapes` for the shapes, `fields` and `params` for where
each value is looked for, `rules` and `redaction` for secrets, `REASONS` for why something is no record.
"""

from models.parsing.levels import LEVELS
from models.parsing.params import BENIGN_REASONS, REASONS, ParseParams, Raw, Records, Reject
from models.parsing.parser import parse
from models.parsing.rules import DEFAULT_RULES, IBAN_RULE, RedactionRule, all_rules

__all__ = [
    "BENIGN_REASONS",
    "DEFAULT_RULES",
    "IBAN_RULE",
    "LEVELS",
    "REASONS",
    "ParseParams",
    "Raw",
    "Records",
    "RedactionRule",
    "Reject",
    "all_rules",
    "parse",
]
