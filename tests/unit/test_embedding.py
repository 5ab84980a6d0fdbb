"""Sentence models: the one built in, and BERT-like folders; the folder here is a small one with random weights."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.embedding import MAX_TOKENS, BertEncoder, WordEncoder, load
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
    for encoder in (load(str(folder)), load("words")):
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
