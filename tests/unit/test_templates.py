"""Templates are those of plain Drain3, whatever the batches, and survive restarts."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from drain3.drain import Drain
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drain import form, is_value_like, is_word
from models.errors import DriftwoodError, SettingsError
from models.masking import MaskParams, signature, tokenise
from models.templates import OVERFLOW, OVERFLOW_ID, ShardTemplates, TemplateParams, TemplateStep

NO_MASKS = MaskParams(masks=(), shapes=())
WORDS = st.sampled_from(["a", "b", "c", "x1", "<*>", "k=", "k:<num>", "<num>", "<id>", "stopped", "read", "RUN"])
LEADING = st.sampled_from(["a", "b", "x1", "<num>", "k:<num>"])
SHORT = st.text("bcd", min_size=2, max_size=2)  # two leaves and a wildcard: nodes that appear later take texts over
LONG = st.text("bcd", min_size=4, max_size=4)  # one leaf: clusters that change compete for a text
TEXTS = st.lists(
    st.one_of(
        st.lists(WORDS, max_size=5).map(" ".join),
        st.builds(lambda first, rest: " ".join((first, *rest)), LEADING, SHORT),
        LONG.map(lambda rest: " ".join(("a", *rest))),
    ),
    min_size=4,
    max_size=14,
)
SERVICES = st.sampled_from(["s", "s", "s", "t"])


def feed(shard: ShardTemplates, lines: list[tuple[str, str]], level: int = 1, ts: int = 0) -> TemplateStep:
    texts = list(dict.fromkeys(f"{service}\0{text}" for service, text in lines))
    place = {text: at for at, text in enumerate(texts)}
    of_line = np.array([place[f"{service}\0{text}"] for service, text in lines], np.int32)
    count = len(lines)
    return shard.step(texts, of_line, np.arange(ts, ts + count, dtype=np.int64), np.full(count, level, np.uint8))


class PlainDrain(Drain):
    """drain3 with the three differences of models.drain, each written down in the plainest way."""

    has_numbers = staticmethod(is_value_like)

    def fast_match(self, cluster_ids, tokens, sim_th, include_params):
        found = []
        for age, cluster in enumerate(self.id_to_cluster[cluster_id] for cluster_id in cluster_ids):
            pairs = list(zip(map(form, cluster.log_template_tokens), map(form, tokens), strict=True))
            words = [one == other for one, other in pairs if one != "<*>" and (is_word(one) or is_word(other))]
            equal = sum(one == other for one, other in pairs)
            same = sum(map(str.__eq__, cluster.log_template_tokens, tokens))
            if equal >= sim_th * len(tokens) and 2 * sum(words) >= len(words):
                found.append(((equal, cluster.log_template_tokens.count("<*>"), same, -age), cluster))
        return max(found, key=lambda one: one[0])[1] if found else None

    def create_template(self, seq1, seq2):
        return [a if a == b else form(a) if form(a) == form(b) else "<*>" for a, b in zip(seq1, seq2, strict=True)]


def plain_drain(lines: list[tuple[str, str]], params: TemplateParams) -> tuple[list[int], list[tuple[str, ...]]]:
    """Creation number of each line's template, and the templates, by drain3's own tree, one line at a time."""
    drains: dict[tuple, Drain] = {}
    numbers: dict[tuple, int] = {}
    found, made = [], []
    for service, text in lines:
        (tokens,) = tokenise([text], params.masking)
        _, keep, events, lead = signature(tokens, params.masking)
        places = [place for place, _ in events]
        variants = [
            key
            for key in drains
            if (*key[:3], key[4]) == (service, len(tokens), keep, lead)
            and key[3]
            and [place for place, _ in key[3]] == places
        ]
        if events and (service, len(tokens), keep, events, lead) not in drains and len(variants) >= params.max_variants:
            events = ()
        key = (service, len(tokens), keep, events, lead)
        drain = drains.setdefault(
            key, PlainDrain(params.depth, params.sim_th, params.max_children, parametrize_numeric_tokens=True)
        )
        cluster, _ = drain.add_log_message(" ".join(tokens))
        if (key, cluster.cluster_id) not in numbers:
            numbers[key, cluster.cluster_id] = len(numbers)
            made.append(cluster)
        found.append(numbers[key, cluster.cluster_id])
    return found, [tuple(cluster.log_template_tokens) for cluster in made]


@settings(max_examples=40, deadline=None)
@given(
    texts=TEXTS,
    order=st.lists(st.tuples(SERVICES, st.integers(0, 13)), min_size=10, max_size=60),
    memo_texts=st.sampled_from([3, 1_000]),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    depth=st.sampled_from([3, 4, 5]),
    max_children=st.sampled_from([2, 3, 100]),
    sim_th=st.sampled_from([0.3, 0.4, 0.7]),
    upset=st.lists(st.sampled_from(["memo", "rebuild", "none"]), min_size=1, max_size=4),
)
def test_any_batch_cut_memo_loss_or_rebuild_gives_the_answers_of_plain_drain(
    texts, order, memo_texts, cuts, depth, max_children, sim_th, upset
):
    lines = [(service, texts[at % len(texts)]) for service, at in order]
    params = TemplateParams(
        depth=depth, max_children=max_children, sim_th=sim_th, masking=NO_MASKS, memo_texts=memo_texts, max_variants=2
    )
    shard = params.build()
    entries: dict[str, bytes] = {}
    journal: list[bytes] = []
    seq: list[int] = []
    start = turn = 0
    while start < len(lines):
        batch = lines[start : start + cuts[turn % len(cuts)]]
        step = feed(shard, batch)
        entries.update(step.changed)
        journal.append(shard.touched())
        seq += step.seq.tolist()
        start += len(batch)
        match upset[turn % len(upset)]:
            case "memo":
                shard.drop_memo()
            case "rebuild":
                before = shard
                shard = params.build(reversed(entries.values()))
                for rows in journal:
                    shard.apply(rows)
                assert shard.to_bytes() == before.to_bytes()
                assert shard.ids.tolist() == before.ids.tolist()
        turn += 1
    expected, templates = plain_drain(lines, params)
    assert seq == expected
    assert [shard.tokens(at) for at in range(len(shard))] == templates
    shard.check()


@pytest.mark.parametrize(
    ("texts", "expected", "depth"),
    [
        pytest.param(
            ["a b c d b", "a b c c c", "a b d c d", "a b c d b", "a d c d b", "a b c d b"],
            [0, 0, 0, 0, 1, 1],
            4,
            id="new",
        ),
        pytest.param(
            ["a b c d b", "a b c c c", "a d d d b", "a b c d b", "a b b b c", "a b c d b"],
            [0, 0, 1, 0, 0, 1],
            4,
            id="merged",
        ),
        pytest.param(["a x1 b b b", "a b b b b", "a b c d e", "a b b b b"], [0, 0, 1, 2], 5, id="a node of its own"),
        pytest.param(["a <num> c d", "a <id> x d", "a <num> c d", "a <amount> c d"], [0, 0, 0, 0], 4, id="alike"),
    ],
)
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_known_text_moves_when_its_leaf_changes_and_earlier_lines_do_not(texts, expected, depth, cut):
    shard, lines = TemplateParams(masking=NO_MASKS, depth=depth).build(), [("s", text) for text in texts]
    seq = [at for start in range(0, len(lines), cut) for at in feed(shard, lines[start : start + cut]).seq.tolist()]
    assert seq == expected == plain_drain(lines, shard.params)[0]


def test_a_batch_names_what_it_made_and_what_it_changed():
    shard = TemplateParams(masking=NO_MASKS).build()
    first = feed(shard, [("s", "user ann came"), ("s", "disk gone")])
    again = feed(shard, [("s", "user ann came")])
    other = feed(shard, [("s", "user bob came")])
    assert (first.new, [key for key, _ in first.changed]) == ([0, 1], ["0", "1"])
    assert (again.new, again.changed) == ([], [])
    assert (other.new, [key for key, _ in other.changed]) == ([], ["0"])
    assert orjson.loads(other.changed[0][1])["tokens"] == "user <*> came"
    assert shard.service_of == ["s", "s"]


def test_the_id_of_a_template_is_the_same_in_any_service_order_and_run():
    one, two = TemplateParams().build(), TemplateParams().build()
    feed(one, [("s", "job <num> done"), ("s", "disk full")])
    feed(two, [("t", "disk full"), ("s", "job <num> done")])
    assert one.ids.tolist() == two.ids.tolist()[::-1]
    assert OVERFLOW_ID not in one.ids.tolist()


def test_ids_that_collide_inside_a_service_move_on_by_one(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", lambda _: 0xFFFFFFFF)
    shard = TemplateParams().build()
    feed(shard, [("s", "one a"), ("s", "two b c"), ("t", "one a")])
    assert shard.ids.tolist() == [0xFFFFFFFF, 1, 0xFFFFFFFF]  # 0 is the overflow template's


def test_texts_that_differ_in_a_keep_word_never_share_a_template():
    shard = TemplateParams().build()
    texts = ("the link to <ip> on port <num> is up", "the link to <ip> on port <num> is down")
    assert feed(shard, [("s", text) for text in texts]).seq.tolist() == [0, 1]
    values = ("state of unit <id> is= Opened", "state of unit <id> is= closed")
    assert feed(shard, [("s", text) for text in values]).seq.tolist() == [2, 3]


def test_lines_that_begin_with_a_value_of_any_kind_share_a_template_and_those_with_words_do_not():
    texts = [
        "<ip> took <num> jobs",
        "<host> took <num> jobs",
        "(root) took <num> jobs",
        "org.acme.Gate: took <num> jobs",
    ]
    shard = TemplateParams().build()
    assert feed(shard, [("s", text) for text in texts]).seq.tolist() == [0, 0, 0, 0]
    assert shard.template(0) == "<*> took <num> jobs"
    assert feed(shard, [("s", f"{word} took <num> jobs") for word in ("Tom", "Ann")]).seq.tolist() == [1, 2]


def test_values_are_no_likeness_where_the_words_differ():
    texts = ["<ip> - <num> <num> in bloom", "<ip> - <num> <num> on sale"]
    assert feed(TemplateParams().build(), [("s", text) for text in texts]).seq.tolist() == [0, 1]
    words = ["unit <num> at <ip> dims <num> lamps", "unit <num> at <ip> tints <num> lamps"]  # two of three words
    assert feed(TemplateParams().build(), [("s", text) for text in words]).seq.tolist() == [0, 0]


def test_a_number_an_amount_and_an_identifier_are_alike_and_the_template_says_so():
    shard = TemplateParams().build()
    texts = ["lr:<id> cr:<id>", "lr:<num> cr:<id>", "lr:<num> cr:<amount>"]
    assert feed(shard, [("s", text) for text in texts]).seq.tolist() == [0, 0, 0]
    assert shard.template(0) == "lr:<id> cr:<id>"
    one = TemplateParams().build([entry for _, entry in feed(shard, [("s", "x <num>")]).changed])
    assert one.template(1) == "x <num>"


def test_event_words_part_no_more_where_they_turn_out_to_be_values():
    params = TemplateParams(max_variants=3)
    codes = ["ABCD", "EFGH", "IJKL", "MNOP", "QRST", "UVWX"]
    seq = feed(params.build(), [("s", f"order for {code} is in the book") for code in codes]).seq.tolist()
    assert seq == [0, 1, 2, 3, 3, 3]


def test_a_service_that_is_full_sends_new_texts_to_its_overflow_template():
    shard = TemplateParams(max_templates=2).build()
    step = feed(shard, [("s", "a"), ("s", "b b"), ("s", "c c c"), ("s", "d d d d"), ("t", "c c c"), ("s", "c c c")])
    assert step.seq.tolist() == [0, 1, 2, 2, 3, 2]
    assert (shard.tokens(2), int(shard.ids[2]), shard.service_of[2]) == ((OVERFLOW,), OVERFLOW_ID, "s")
    rebuilt = TemplateParams(max_templates=2).build([entry for _, entry in step.changed], shard.to_bytes())
    assert feed(rebuilt, [("s", "e e e e e"), ("s", "a")]).seq.tolist() == [2, 0]
    assert int(shard.statistics.lines[2].sum()) == 3


def test_a_full_shard_has_one_overflow_template_for_all_new_services():
    shard = TemplateParams(max_templates_shard=1).build()
    assert feed(shard, [("s", "a"), ("t", "a"), ("u", "b"), ("s", "b b")]).seq.tolist() == [0, 1, 1, 2]
    assert shard.service_of == ["s", "", "s"]


def test_statistics_hold_counts_by_level_and_the_first_and_last_time():
    shard = TemplateParams().build()
    feed(shard, [("s", "a"), ("s", "b b"), ("s", "a")], level=3, ts=100)
    feed(shard, [("s", "a")], level=5, ts=50)
    rows = shard.statistics
    assert rows.lines[0].tolist() == [0, 0, 0, 2, 0, 1, 0, 0]
    assert (rows.first_ts.tolist(), rows.last_ts.tolist()) == ([50, 101], [102, 101])


def test_touched_gives_only_rows_changed_since_the_last_call():
    shard, copy = TemplateParams().build(), TemplateParams().build()
    step = feed(shard, [("s", "a"), ("s", "b b")])
    full = shard.touched()
    assert len(shard.touched()) < len(full)
    feed(shard, [("s", "a")])
    copy = TemplateParams().build([entry for _, entry in step.changed], full)
    copy.apply(shard.touched())
    assert copy.to_bytes() == shard.to_bytes()


def test_an_artefact_gives_its_templates_and_their_ids_to_a_service():
    trained = TemplateParams().build()
    feed(trained, [("s", "user ann came"), ("s", "user bob came"), ("s", "disk full")])
    live = TemplateParams().build()
    feed(live, [("t", "disk full")])
    written = live.seed("t", trained.export("s"))
    assert [key for key, _ in written] == ["1"]  # "disk full" was there already
    step = feed(live, [("t", "user eve came"), ("t", "disk full")])
    assert live.ids[step.seq].tolist() == trained.ids.tolist()
    assert live.seed("t", trained.export("s")) == []
    live.check()


def test_a_dropped_service_leaves_nothing_and_its_numbers_are_never_used_again():
    shard = TemplateParams().build()
    entries = dict(feed(shard, [("s", "a"), ("t", "b b")]).changed)
    assert shard.drop("t") == ["1"]
    del entries["1"]
    assert (shard.tokens(1), shard.service_of[1], shard.drop("t")) == ((), "", [])
    rebuilt = TemplateParams().build(entries.values(), shard.to_bytes())
    for one in (shard, rebuilt):
        assert feed(one, [("t", "b b"), ("s", "a")]).seq.tolist() == [2, 0]
        one.check()


def test_what_is_remembered_is_bounded():
    shard = TemplateParams(memo_texts=10, memo_chars=100).build()
    for start in range(0, 200, 20):
        feed(shard, [("s", f"user {chr(97 + at % 26)}{at} came") for at in range(start, start + 20)])
        shard.check()
    assert len(shard) == 1


def test_a_template_reads_like_the_line_it_came_from():
    shard = TemplateParams().build()
    feed(shard, [("s", "login() uid=<num> tty= host=<ip> (total = <num>)")])
    assert shard.template(0) == "login() uid=<num> tty= host=<ip> (total = <num>)"


def test_settings_and_state_of_another_version_are_refused_with_a_reason():
    with pytest.raises(SettingsError, match="depth"):
        TemplateParams(depth=2)
    with pytest.raises(SettingsError, match="sim_th"):
        TemplateParams(sim_th=0)
    with pytest.raises(DriftwoodError, match="version 9"):
        TemplateParams().build([b'{"v":9,"seq":0}'])
    with pytest.raises(DriftwoodError, match="version 9"):
        TemplateParams().build((), b"\x09" + bytes(11))
