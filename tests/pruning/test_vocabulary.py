"""Vocabulary pruning: same tokens and logits on the corpus for every kind of tokenizer, and what stays and changes."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaTokenizer,
)

from tkd_hf import TKDForMaskedLM, student_from_teacher
from tkd_hf.core.errors import InputError
from tkd_hf.pruning.fast_tokenizer import encode_texts, prune_tokenizer, required_token_ids
from tkd_hf.pruning.vocabulary import corpus_texts, prune_vocabulary

from ..factories import TEXTS, WORDS, build_teacher, build_tokenizer


CORPUS = ["The unwatchable film", "a lovely film, watched", "love film ☃ xyzzy"]
HELD_OUT = ["watchable love", "a film"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CHARACTERS = "abcdefhilmnortuvwy,"


def wordpiece() -> BertTokenizer:
    """As in BERT, an [unused] piece stands between special tokens."""
    pieces = ["[PAD]", "[unused0]", *BERT_SPECIAL[1:], *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    pieces += "the film films un love lovely ##ly watch ##watch ##watchable ##able ##ed watched water".split()
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def byte_bpe() -> RobertaTokenizer:
    """Merges build words from pieces that occur in no text; <mask> is the last token, as in RoBERTa."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = "f i,l m,fi lm,Ġ film,l o,v e,lo ve,Ġ love,w a,wa t,c h,wat ch,Ġ watch,e d,Ġ a,l e,b le,a ble"
    merges = [tuple(merge.split()) for merge in merges.split(",")]
    tokens = [*ROBERTA_SPECIAL, *alphabet, *("".join(merge) for merge in merges), "<mask>"]
    return RobertaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def unigram() -> PreTrainedTokenizerFast:
    scores = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    scores |= {"▁": -3.0, "▁film": -4.0, "▁love": -5.0, "ly": -5.5, "watch": -5.0, "▁watch": -4.5, "able": -6.0}
    scores |= {c: -8.0 - i / 10 for i, c in enumerate(CHARACTERS)} | {"lovely": -30.0, "<mask>": 0.0}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **names)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert(kind=BertForSequenceClassification, tokenizer=None):
    torch.manual_seed(0)
    return kind(BertConfig(vocab_size=len(tokenizer or wordpiece()), initializer_range=0.5, **SMALL)).eval()


def roberta(kind=RobertaForSequenceClassification, tokenizer=None):
    torch.manual_seed(0)
    tokenizer = tokenizer or byte_bpe()
    # There are eight more rows than tokens, as in models whose vocabulary is padded to a round number.
    config = RobertaConfig(vocab_size=len(tokenizer) + 8, initializer_range=0.5, type_vocab_size=1, **SMALL)
    return kind(config).eval()


CASES = {
    "wordpiece": (bert, wordpiece),
    "wordpiece-mlm": (lambda: bert(BertForMaskedLM), wordpiece),
    "bpe": (roberta, byte_bpe),
    "bpe-mlm": (lambda: roberta(RobertaForMaskedLM), byte_bpe),
    "unigram": (lambda: roberta(tokenizer=unigram()), unigram),
    "tkd": (lambda: student_from_teacher(bert(), num_hidden_layers=1), wordpiece),
    "tkd-mlm": (lambda: student_from_teacher(bert(BertForMaskedLM), num_hidden_layers=1), wordpiece),
}


def logits(model, tokenizer, texts=CORPUS):
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def tokens_of(tokenizer, texts=CORPUS):
    return [tokenizer.convert_ids_to_tokens(ids) for ids in encode_texts(tokenizer, texts)]


@pytest.fixture(scope="module", params=CASES)
def pruned(request):
    """Return a model and its tokenizer before and after their vocabulary was pruned to a corpus."""
    build_model, build_tokenizer = CASES[request.param]
    model, tokenizer = build_model(), build_tokenizer()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller, cut, report = prune_vocabulary(model, tokenizer, CORPUS, HELD_OUT)
    is_mlm = request.param.endswith("mlm")
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, state=state, smaller=smaller, cut=cut, report=report, is_mlm=is_mlm
    )


def test_the_model_and_tokenizer_have_the_reported_vocabulary(pruned):
    smaller, cut, report = pruned.smaller, pruned.cut, pruned.report
    assert report.tokens_after == len(cut) == smaller.config.vocab_size < report.tokens_before
    assert smaller.get_input_embeddings().num_embeddings == len(cut)
    assert cut.pad_token_id == smaller.config.pad_token_id == smaller.get_input_embeddings().padding_idx
    if pruned.is_mlm:
        assert smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight


def test_the_logits_of_the_corpus_stay_the_same(pruned):
    expected = logits(pruned.model, pruned.tokenizer)
    if pruned.is_mlm:
        expected = expected[..., list(pruned.report.kept)]
    torch.testing.assert_close(logits(pruned.smaller, pruned.cut), expected, rtol=0, atol=1e-6)


def test_the_tokens_of_the_corpus_and_of_pairs_stay_the_same(pruned):
    tokenizer, cut, kept = pruned.tokenizer, pruned.cut, pruned.report.kept
    assert tokens_of(cut) == tokens_of(tokenizer)
    assert cut("a", "film").keys() == tokenizer("a", "film").keys()
    assert [kept[token_id] for token_id in cut("a", "film").input_ids] == tokenizer("a", "film").input_ids
    assert cut.decode(cut("a film").input_ids) == tokenizer.decode(tokenizer("a film").input_ids)


def test_pruning_the_vocabulary_leaves_the_given_model_unchanged(pruned):
    assert all(torch.equal(pruned.state[name], tensor) for name, tensor in pruned.model.state_dict().items())


def test_a_reloaded_pruned_model_gives_the_same_tokens_and_logits(pruned, tmp_path):
    pruned.smaller.save_pretrained(tmp_path)
    pruned.cut.save_pretrained(tmp_path)
    auto_class = AutoModelForMaskedLM if pruned.is_mlm else AutoModelForSequenceClassification
    model, tokenizer = auto_class.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(logits(model, tokenizer), logits(pruned.smaller, pruned.cut))
    assert tokens_of(tokenizer, HELD_OUT) == tokens_of(pruned.cut, HELD_OUT)


def test_wordpiece_keeps_used_pieces_and_single_characters():
    _, cut, _ = prune_vocabulary(bert(), wordpiece(), CORPUS)
    singles = {*CHARACTERS, *(f"##{c}" for c in CHARACTERS)}
    # "unwatchable" is un ##watchable. "xyzzy" and the snowman are unknown from their first character on.
    used = {"the", "un", "##watchable", "film", "lovely", "watched", "love"}
    assert set(cut.get_vocab()) == {*BERT_SPECIAL, *singles, *used}


def test_bpe_keeps_the_merges_that_build_the_tokens_of_the_corpus():
    _, cut, _ = prune_vocabulary(roberta(), byte_bpe(), ["a film"])
    merged = {token for token in cut.get_vocab() if len(token) > 1 and not token.startswith("<")}
    assert merged == {"fi", "lm", "film", "Ġfilm"}


def test_word_that_wordpiece_cannot_split_stays_unknown():
    # Of "abcd", WordPiece takes abc, and no piece fits the d. Without the piece abc, it would find ab ##cd.
    pieces = ["[UNK]", "a", "ab", "abc", "##cd", "##c"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    texts = ["abcd", "ab", "acd"]
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, texts))
    assert tokens_of(cut, texts) == tokens_of(tokenizer, texts) == [["[UNK]"], ["ab"], ["a", "##cd"]]
    assert "abc" in cut.get_vocab()


WORD = st.text("abc", min_size=1, max_size=7)
# Few characters and many pieces, so that words that cannot be split could often be split in another way.
PIECES = st.sets(st.text("abc", min_size=1, max_size=3), min_size=8, max_size=25)


@given(st.tuples(PIECES, PIECES), st.lists(WORD, min_size=4, max_size=12), st.lists(WORD, max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_wordpiece_with_any_pieces_keeps_the_tokens_of_the_corpus(pieces, texts, held_out, singles):
    first, inner = pieces
    alphabet = {"a", "b", "c", "##a", "##b", "##c"} if singles else {"a"}
    vocabulary = ["[UNK]", *sorted(alphabet | first | {f"##{piece}" for piece in inner})]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, texts))
    assert tokens_of(cut, texts) == tokens_of(tokenizer, texts)
    if singles:
        assert all("[UNK]" not in tokens for tokens in tokens_of(cut, held_out))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20),
    st.lists(WORD, min_size=1, max_size=6),
    st.lists(WORD, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_bpe_with_any_merges_keeps_the_tokens_of_the_corpus(pairs, texts, held_out):
    tokens, merges = ["a", "b", "c"], []
    for left, right in pairs:
        merge = (tokens[left % len(tokens)], tokens[right % len(tokens)])
        merges.append(merge)
        tokens.append("".join(merge))
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges)))))
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, texts))
    assert tokens_of(cut, texts) == tokens_of(tokenizer, texts)
    assert ["".join(tokens) for tokens in tokens_of(cut, held_out)] == held_out


@given(
    st.dictionaries(st.text("abc", min_size=2, max_size=3), st.integers(-80, -1), max_size=20),
    st.lists(st.text("abcd", min_size=1, max_size=7), min_size=1, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_unigram_with_any_scores_keeps_the_tokens_of_the_corpus(scores, texts):
    scores = {"<unk>": 0.0, "a": -25.0, "b": -5.0} | {piece: score / 2 for piece, score in scores.items()}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, texts))
    assert tokens_of(cut, texts) == tokens_of(tokenizer, texts)


def test_unigram_penalty_of_an_unknown_character_stays_the_same():
    # An unknown character costs 10 more than the least likely piece. If that piece were bc, then ab and an unknown c
    # would be more likely than a and bc.
    scores = {"<unk>": 0.0, "a": -25.0, "ab": -1.0, "bc": -30.0, "never": -60.0, "other": -2.0}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, ["abc"]))
    assert tokens_of(cut, ["abc"]) == tokens_of(tokenizer, ["abc"]) == [["a", "bc"]]
    assert set(cut.get_vocab()) == {"<unk>", "a", "bc", "never"}


def test_report_counts_changed_held_out_texts():
    _, cut, report = prune_vocabulary(bert(), wordpiece(), CORPUS, HELD_OUT)
    # "watchable" was watch ##able, which the corpus does not use; now it is w and eight more. "a film" is unchanged.
    assert tokens_of(cut, HELD_OUT)[0][1:-1] == ["w", *(f"##{c}" for c in "atchable"), "love"]
    held_out = report.held_out
    assert (held_out.texts, held_out.changed) == (2, 0.5)
    assert (held_out.tokens_before, held_out.tokens_after) == (4.5, 8.0)
    assert held_out.unknown_before == held_out.unknown_after == 0.0


def test_megabytes_saved_equal_the_removed_rows():
    model = bert()
    _, _, report = prune_vocabulary(model, wordpiece(), CORPUS)
    removed = report.tokens_before - report.tokens_after
    assert report.megabytes_saved == pytest.approx(removed * 16 * 4 / 1e6)
    assert f"{report.tokens_before} -> {report.tokens_after} tokens" in str(report)


def test_tied_decoder_counts_once_and_its_bias_is_pruned():
    model, _, report = prune_vocabulary(bert(BertForMaskedLM), wordpiece(), CORPUS)
    removed = report.tokens_before - report.tokens_after
    assert report.megabytes_saved == pytest.approx(removed * 17 * 4 / 1e6)
    assert model.cls.predictions.bias.shape == (report.tokens_after,)


def test_roberta_keeps_the_padding_id_from_which_positions_are_counted():
    tokens = ["<s>", "x", "<pad>", "</s>", "<unk>", *"ab"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    config = RobertaConfig(vocab_size=7, bos_token_id=0, pad_token_id=2, eos_token_id=3, **SMALL)
    model = RobertaForSequenceClassification(config).eval()
    smaller, cut, _ = prune_vocabulary(model, tokenizer, ["a b", "a"])
    assert (cut.pad_token_id, smaller.config.eos_token_id) == (2, 3)
    torch.testing.assert_close(logits(smaller, cut, ["a b", "a"]), logits(model, tokenizer, ["a b", "a"]))


def test_token_ids_in_the_configuration_are_renumbered():
    model = bert()
    model.config.eos_token_id = [4, 5]  # [SEP] and [MASK], which follow a removed token
    model.config.bos_token_id = 3
    smaller, cut, _ = prune_vocabulary(model, wordpiece(), CORPUS)
    assert smaller.config.eos_token_id == [3, 4] == cut.convert_tokens_to_ids(["[SEP]", "[MASK]"])
    assert smaller.config.bos_token_id == 2
    assert model.config.eos_token_id == [4, 5]


def test_added_tokens_are_kept():
    tokenizer = wordpiece()
    tokenizer.add_tokens([AddedToken("<brand>", normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>"]})
    model = bert(tokenizer=tokenizer)
    smaller, cut, _ = prune_vocabulary(model, tokenizer, CORPUS)
    texts = ["a <brand> film <user>"]
    assert tokens_of(cut, texts) == tokens_of(tokenizer, texts)
    torch.testing.assert_close(logits(smaller, cut, texts), logits(model, tokenizer, texts))


def test_pairs_and_lists_of_words_are_tokenized_as_in_training(tokenizer, teacher):
    pairs = Dataset.from_dict({"text": ["good film", "bad"], "text_pair": ["a story", "film"], "label": [0, 1]})
    assert list(corpus_texts(pairs)) == [("good film", "a story"), ("bad", "film")]
    word_lists = Dataset.from_dict({"text": [["good", "film"], ["bad"]]})
    assert list(corpus_texts(word_lists)) == [["good", " film"], ["bad"]]
    assert list(corpus_texts(Dataset.from_dict({"text": TEXTS}))) == TEXTS

    for examples, used in ((pairs, {"good", "film", "bad", "story"}), (word_lists, {"good", "film", "bad"})):
        _, cut, _ = prune_vocabulary(teacher, tokenizer, corpus_texts(examples))
        assert set(cut.get_vocab()) == {*WORDS[:5], "a", "b", *used}


def test_pruned_model_keeps_dtype_and_training_mode():
    model = bert().to(torch.bfloat16).train()
    smaller, _, report = prune_vocabulary(model, wordpiece(), CORPUS)
    assert smaller.dtype == torch.bfloat16
    assert smaller.training
    rows = model.get_input_embeddings().weight[list(report.kept)]
    assert torch.equal(smaller.get_input_embeddings().weight, rows)


def test_pruning_draws_no_random_numbers(teacher, tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    prune_vocabulary(teacher, tokenizer, TEXTS)
    assert torch.equal(torch.rand(2), expected)


def test_encoder_without_a_head_can_be_pruned(tokenizer):
    model = student_from_teacher(build_teacher(), num_hidden_layers=1).tkd
    smaller, _, _ = prune_vocabulary(model, tokenizer, ["good"])
    assert smaller.config.vocab_size == 8  # five special tokens, a, b and good


def test_pruned_tkd_masked_lm_can_be_trained():
    model = student_from_teacher(bert(BertForMaskedLM), num_hidden_layers=1)
    smaller, cut, _ = prune_vocabulary(model, wordpiece(), CORPUS)
    assert isinstance(smaller, TKDForMaskedLM)
    batch = cut(CORPUS, padding=True, return_tensors="pt")
    smaller(**batch, labels=batch["input_ids"]).loss.backward()
    assert smaller.get_input_embeddings().weight.grad.shape == (len(cut), 16)


def test_unknown_words_are_searched_in_normalised_text():
    pieces = ["[UNK]", "a", "ab", "abc", "##cd", "##c"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    texts = ["AB ABCD", "acd"]
    cut = prune_tokenizer(tokenizer, required_token_ids(tokenizer, texts))
    assert tokens_of(cut, texts) == [["ab", "[UNK]"], ["a", "##cd"]]


def test_empty_corpus_and_foreign_tokenizers_are_refused(teacher, tokenizer):
    with pytest.raises(InputError, match="the corpus is empty"):
        prune_vocabulary(teacher, tokenizer, [])
    with pytest.raises(InputError, match="last token has id 15, but the model has 15 word embeddings"):
        prune_vocabulary(teacher, build_tokenizer([*WORDS, "more"]), TEXTS)
    teacher.config.eos_token_id = 50256
    with pytest.raises(InputError, match=r"eos_token_id=50256 .* not among the tokenizer's 15 tokens"):
        prune_vocabulary(teacher, tokenizer, TEXTS)


def test_tokenizer_whose_tokens_change_is_refused():
    torch.manual_seed(0)
    tokenizer = byte_bpe()
    tokenizer.backend_tokenizer.model.dropout = 0.5  # merges are skipped at random, so no two runs agree
    with pytest.raises(InputError, match=r"splits .* into .* instead of"):
        prune_vocabulary(roberta(), tokenizer, ["a lovely film to watch"] * 50)
