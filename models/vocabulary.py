"""Words that carry an event's meaning, so that templates are not merged across them.

Two lists, both replaceable by setting. *Keep-words* are opposites and outcomes: two texts that differ in one never share
a template. *Event words* are the common verbs and nouns of operation: they part templates as well, but not where they
stand as a value (`name=memory`, `user backup`, `for sync from`) and only up to a bound on variants. Verbs that are on neither list are
known by their endings, -ed and -ing (`models.masking`).
"""

from __future__ import annotations

from typing import Final


def forms(verb: str) -> tuple[str, ...]:
    """A regular verb's forms as logs use them.

    >>> forms("cache"), forms("retry")
    (('cache', 'caches', 'cached', 'caching'), ('retry', 'retries', 'retried', 'retrying'))
    """
    if verb.endswith("e"):
        return verb, f"{verb}s", f"{verb}d", f"{verb[:-1]}ing"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb, f"{verb[:-1]}ies", f"{verb[:-1]}ied", f"{verb}ing"
    third = "es" if verb.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return verb, verb + third, f"{verb}ed", f"{verb}ing"


_OPPOSITES: Final = """
    start restart open close enable disable succeed fail acquire release lock unlock connect disconnect reconnect
    accept reject allow grant refuse add remove create delete attach detach pause resume suspend activate deactivate
    complete abort commit rollback load unload mount unmount register unregister deregister subscribe unsubscribe
    install uninstall bind unbind increase decrease expire renew block unblock upgrade downgrade freeze thaw
"""
_OUTCOMES: Final = """
    stop stops stopped stopping begin begins began end ends ended up down online offline startup shutdown login logout
    success successful successfully failure unsuccessful deny denies denied denying ok error
    not never cannot missing present healthy unhealthy reachable unreachable available unavailable alive dead won lost drop drops dropped dropping
"""
KEEP_WORDS: Final = frozenset(form for verb in _OPPOSITES.split() for form in forms(verb)) | frozenset(
    _OUTCOMES.split()
)

_VERBS: Final = """
    access acknowledge adjust allocate deallocate announce append apply approve archive assign unassign assert
    authenticate authorize balance boot broadcast build bypass cache calculate call cancel capture change check
    clean clear clone collect compare compile compress compute configure confirm consume convert copy decode decompress
    decrypt defer delay deliver deploy dequeue destroy detect discard discover dispatch download drain dump duplicate
    eject elect emit encode encrypt enqueue enter establish evict exceed execute exit expand expect export extend extract
    fetch fill filter find finish flush force fork format forward generate handle hang heal hibernate ignore import index
    initialize initiate insert inspect interrupt invalidate invoke join kill launch leave link list listen lookup map
    mark match merge migrate modify monitor move notify optimize overflow override parse perform ping poll prepare
    prevent process promote demote propagate protect publish pull purge push query queue raise read reboot rebuild receive
    reclaim record recover recycle redirect reduce refresh reload rename repair replace replay replicate reply report
    request require reset resize resolve respond restore retrieve retry return revert revoke rotate route sample save
    scale scan schedule search seal select serve shrink sign skip sleep spawn split stage stall store stream submit swap
    switch sync synchronize synchronise terminate throttle time touch trace track transfer transform transition trigger
    truncate try update upload use validate verify view wait wake warn watch write
"""
_IRREGULAR: Final = """
    built drew found got held kept left made met put ran read rebuilt reset run running sent send sends sending set
    cancelled cancelling placed setting shut shutting slept spent split splitting swapped swapping took taken taking wrote written get getting gets
    killed mapped mapping planned stalled scanned scanning skipped skipping dumped quit stuck hung
"""
_NOUNS: Final = """
    memory disk disks cpu cpus vcpu vcpus network heap stack thread session connection channel socket response message
    packet frame file files directory folder volume image snapshot database table password passphrase publickey
    certificate client server master slave leader follower primary secondary replica source destination input output
    local remote internal external inbound outbound incoming outgoing total used free reserved usable current previous
    high low maximum minimum average limit quota bytes values blocks pages job jobs task tasks attempt stage container
    new old empty full busy idle valid invalid known unknown normal abnormal ready pending
"""
EVENT_WORDS: Final = (
    frozenset(form for verb in _VERBS.split() for form in forms(verb))
    | frozenset(_IRREGULAR.split())
    | frozenset(_NOUNS.split())
) - KEEP_WORDS

#: The next word is somebody's or something's name, so it is a value.
_NAMING: Final = """
    user users username usr account login owner name named host hostname node group role tenant project domain database
    table queue topic file device interface
"""
NAMING_WORDS: Final = frozenset(_NAMING.split())

#: A word after one of the first and before one of the second is whoever did it: `for backup from`.
DOER_WORDS: Final = frozenset({"by", "for"})
WAY_WORDS: Final = frozenset({"at", "by", "from", "in", "on", "to", "using", "via", "with"})
