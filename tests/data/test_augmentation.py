"""Words are replaced where, as often and by what was asked for; the seed decides; nothing comes out twice."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tkd_hf import InputError
from tkd_hf.data.augmentation import collect_words, replace_words, shuffle_pairs
from tkd_hf.data.replacement_words import MaskedWords, NearestWords, _whole_words

from ..conftest import TEXTS, WORDS, build_tokenizer


VOCABULARY = set(WORDS[5:])


def build_mlm(vocab_size=len(WORDS), **fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=vocab_size, max_position_embeddings=32, initializer_range=0.5, **sizes, **fields)
    return BertForMaskedLM(config)


def rewrite(examples, model, tokenizer, copies=4, probability=0.4, seed=42, **limits):
    return replace_words(examples, MaskedWords(model, tokenizer, **limits), copies, probability, seed)


@pytest.fixture
def mlm():
    return build_mlm()


@pytest.fixture
def texts():
    return Dataset.from_dict({"text": TEXTS})


def test_the_seed_decides(mlm, tokenizer, texts):
    first, again, other = (rewrite(texts, mlm, tokenizer, seed=seed).to_dict() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_an_example_has_the_same_copies_whatever_the_batch(mlm, tokenizer, texts):
    one, many = (rewrite(texts, mlm, tokenizer, seed=1, batch_size=size).to_dict() for size in (1, 7))
    assert one == many


def test_the_model_stays_as_it_is(mlm, tokenizer, texts):
    """Left in training mode, it is run without dropout nevertheless."""
    assert mlm.training
    left = rewrite(texts, mlm, tokenizer).to_dict()
    assert mlm.training
    assert left == rewrite(texts, mlm.eval(), tokenizer).to_dict()


def test_no_word_is_replaced_at_0_and_every_word_at_1(mlm, tokenizer, texts):
    assert len(rewrite(texts, mlm, tokenizer, probability=0)) == 0
    new = rewrite(Dataset.from_dict({"text": [TEXTS[6]]}), mlm, tokenizer, copies=20, probability=1)
    assert len(new) > 10
    for text in new["text"]:
        replaced = text.split()
        assert len(replaced) == 7
        assert all(old != word for old, word in zip(TEXTS[6].split(), replaced, strict=True))


def test_words_are_replaced_as_often_as_asked(mlm, tokenizer):
    text = "good film " * 6
    new = rewrite(Dataset.from_dict({"text": [text]}), mlm, tokenizer, copies=200, probability=0.25)
    changed = sum(a != b for found in new["text"] for a, b in zip(text.split(), found.split(), strict=True))
    assert changed / (12 * len(new)) == pytest.approx(0.25, abs=0.05)


def test_only_whole_words_are_proposed(mlm, texts):
    """No special token, no piece of a word, no punctuation, even if the model likes nothing better."""
    words = [*WORDS[:5], *"good film ##ing . , bad fine very dull story".split()]
    tokenizer = build_tokenizer(words)
    with torch.no_grad():
        mlm.cls.predictions.bias[:] = torch.tensor([100.0 if word not in VOCABULARY else 0.0 for word in words])
    new = rewrite(texts, mlm, tokenizer, probability=1, copies=10)
    assert {word for text in new["text"] for word in text.split()} <= VOCABULARY


def test_the_likeliest_are_proposed(mlm, tokenizer):
    favourites = [WORDS.index(word) for word in ("story", "dull")]
    with torch.no_grad():
        mlm.cls.predictions.bias[favourites] = torch.tensor([100.0, 90.0])
    new = rewrite(Dataset.from_dict({"text": ["a film", "story b"]}), mlm, tokenizer, 30, 1, candidates=1)
    assert new["text"][:] == ["story story", "dull story"]


def test_proposals_are_those_where_the_word_alone_is_masked(mlm, tokenizer):
    mlm.eval()
    masked = tokenizer("a [MASK] fine story", return_tensors="pt")
    logits = mlm(**masked).logits[0, 2]
    ranked = [WORDS[i] for i in logits.argsort(descending=True) if WORDS[i] in VOCABULARY - {"very"}]
    new = rewrite(Dataset.from_dict({"text": ["a very fine story"]}), mlm, tokenizer, 300, 0.25, candidates=3)
    single = [text.split()[1] for text in new["text"] if text.split()[0::2] == ["a", "fine"] and "story" in text[-5:]]
    assert set(single) == set(ranked[:3])


def test_all_but_the_words_stays(mlm, tokenizer):
    text = "  good -- (film), it's «dull»!  "
    (new,) = rewrite(Dataset.from_dict({"text": [text]}), mlm, tokenizer, 1, 1)["text"]
    parts = new.split("--")[0], new.split("(")[1].split(")")[0]
    assert new.replace(parts[0], "").startswith("-- (")
    assert new.startswith("  ")
    assert new.endswith("»!  ")
    assert set(parts[1].split()) <= VOCABULARY


def test_pairs_stay_pairs(mlm, tokenizer):
    """The first and second texts of a copy come from the same example: here a word in only one of the two tells."""
    pairs = Dataset.from_dict({"text": ["b b b", "a a a"], "text_pair": ["film film film film", "dull dull"]})
    pairs = pairs.add_column("label", [1, 0])
    new = rewrite(pairs, mlm, tokenizer, copies=10)
    assert new.column_names == ["text", "text_pair"]
    lengths = [len(text.split()) for text in new["text_pair"]]
    assert set(lengths) == {4, 2}
    assert lengths == sorted(lengths, reverse=True)  # the copies of one example stand together
    assert any("b" in text.split() for text, length in zip(new["text"], lengths, strict=True) if length == 4)
    untouched = rewrite(pairs, mlm, tokenizer, copies=3, probability=1, words={"good"})
    assert untouched.to_dict() == {
        "text": ["good good good", "good good good"],
        "text_pair": ["good good good good", "good good"],
    }


def test_nothing_comes_out_twice(mlm, tokenizer):
    short = Dataset.from_dict({"text": ["b", "a", "fine"]})
    new = rewrite(short, mlm, tokenizer, copies=50, probability=0.9)["text"][:]
    assert len(set(new)) == len(new)
    assert not {"b", "a", "fine"} & set(new)


def test_only_given_words_are_proposed(mlm, tokenizer, texts):
    new = rewrite(texts, mlm, tokenizer, probability=1, copies=10, words={"good", "bad"})
    assert collect_words(new) <= {"good", "bad"}
    with pytest.raises(InputError, match="no word that could be proposed"):
        rewrite(texts, mlm, tokenizer, words={"unheard"})


def test_what_is_cut_off_is_not_replaced(mlm, tokenizer):
    long = Dataset.from_dict({"text": ["good " * 40 + "film"]})
    (new,) = rewrite(long, mlm, tokenizer, 1, 1)["text"]
    assert "good" not in new.split()[:30]
    assert new.split()[30:] == ["good"] * 10 + ["film"]


def test_a_text_that_spells_the_mask_is_left_alone(mlm, tokenizer):
    assert len(rewrite(Dataset.from_dict({"text": ["a [MASK] film"]}), mlm, tokenizer, 5, 1)) == 0


@pytest.mark.parametrize("marker", ["Ġ", "▁"])
def test_vocabularies_that_mark_where_words_begin(marker):
    """Of `film` and `Ġfilm`, the one that stands after a space is the word."""
    tokens = ["<s>", "<mask>", "<unk>", ",", marker, f"{marker}film", "film", "ing", f"{marker}good", f"{marker}."]
    backend = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=2))
    if marker == "Ġ":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = {"bos_token": "<s>", "mask_token": "<mask>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    assert _whole_words(tokenizer) == {5: "film", 8: "good"}


def test_models_that_do_not_fit_are_named(mlm, tokenizer, texts):
    with pytest.raises(InputError, match="has 15 tokens, the model 12: they do not belong together"):
        rewrite(texts, build_mlm(12), tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        rewrite(texts, mlm, tokenizer)


def test_the_nearest_by_direction_are_proposed(mlm, tokenizer):
    """By the angle between embeddings alone: `dull` is as near to `good` as can be, and ten times as long."""
    weight = mlm.get_input_embeddings().weight
    codes = {word: WORDS.index(word) for word in VOCABULARY}
    with torch.no_grad():
        weight.zero_()
        for word, (x, y) in {"good": (1, 0), "fine": (4, 1), "dull": (10, 0), "very": (-1, 0), "film": (0, 1)}.items():
            weight[codes[word], :2] = torch.tensor([float(x), float(y)])
    nearest = NearestWords(mlm, tokenizer, candidates=2)
    assert nearest([("so good, so Good", 3, 7)]) == [["dull", "fine"]]
    assert nearest([("so good, so Good", 12, 16)]) == [["dull", "fine"]]
    assert NearestWords(mlm, tokenizer, 1, {"fine", "film"})([("good", 0, 4)]) == [["fine"]]
    new = replace_words(Dataset.from_dict({"text": ["Good!"]}), NearestWords(mlm, tokenizer, candidates=1), 3, 1)
    assert new["text"][:] == ["dull!"]


def test_a_word_without_an_embedding_stays(mlm, tokenizer):
    """One of several tokens, or of none that the tokenizer knows."""
    nearest = NearestWords(mlm, tokenizer)
    assert nearest([("unheard good", 0, 7)]) == [[]]
    new = replace_words(Dataset.from_dict({"text": ["unheard good"]}), nearest, 5, 1)["text"]
    assert {text.split()[0] for text in new} == {"unheard"}
    assert "good" not in {text.split()[1] for text in new}


def test_embeddings_that_do_not_fit_are_named(mlm, tokenizer):
    with pytest.raises(InputError, match="has 15 tokens, the model 12: they do not belong together"):
        NearestWords(build_mlm(12), tokenizer)
    with pytest.raises(InputError, match="no word that could be proposed"):
        NearestWords(mlm, tokenizer, words={"unheard"})


def test_shuffled_pairs_are_new_and_balanced():
    pairs = {"text": list("abcdef"), "text_pair": list("ghijkl")}
    new = shuffle_pairs(Dataset.from_dict({**pairs, "label": [0] * 6}), copies=3, seed=1)
    found = list(zip(new["text"], new["text_pair"], strict=True))
    assert new.column_names == ["text", "text_pair"]
    assert len(set(found)) == 18
    assert not set(found) & set(zip(*pairs.values(), strict=True))
    assert all(new["text"][:].count(text) == 3 for text in "abcdef")
    assert all(new["text_pair"][:].count(text) == 3 for text in "ghijkl")
    again, other = (shuffle_pairs(Dataset.from_dict(pairs), copies=3, seed=seed).to_dict() for seed in (1, 2))
    assert again == new.to_dict()
    assert other != again


def test_a_pair_that_was_there_is_no_new_one():
    """Two examples with the same first text: its partners may be swapped among them without anything new."""
    pairs = Dataset.from_dict({"text": ["a", "a", "b"], "text_pair": ["c", "d", "e"]})
    new = shuffle_pairs(pairs, copies=2)
    assert sorted(zip(new["text"], new["text_pair"], strict=True)) == [("a", "e"), ("b", "c"), ("b", "d")]


def test_what_cannot_be_shuffled(texts):
    with pytest.raises(InputError, match="only pairs of texts can be shuffled"):
        shuffle_pairs(texts)
    with pytest.raises(InputError, match="2 new partners for each of 2 texts are too many"):
        shuffle_pairs(Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", "d"]}), copies=2)


@pytest.mark.parametrize("kind", ["distilbert", "electra", "albert", "roberta", "tkd", "without a decoder"])
def test_other_architectures_propose_what_they_predict(kind, tokenizer, texts, monkeypatch):
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32} if kind == "distilbert" else sizes
    name = "bert" if kind == "without a decoder" else kind
    config = AutoConfig.for_model(name, vocab_size=len(WORDS), initializer_range=0.5, pad_token_id=0, **small)
    model = AutoModelForMaskedLM.from_config(config).eval()
    if kind == "without a decoder":
        monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    batch = tokenizer("a [MASK] film", return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ranked = [WORDS[i] for i in model(**batch).logits[0, 2].argsort(descending=True) if WORDS[i] in VOCABULARY]
    texts = Dataset.from_dict({"text": [f"a {ranked[2]} film"]})
    new = rewrite(texts, model, tokenizer, 300, 0.2, candidates=3)["text"]
    found = {text.split()[1] for text in new if text.split()[0::2] == ["a", "film"]}
    assert found == {ranked[0], ranked[1], ranked[3]}
