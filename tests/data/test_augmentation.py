"""Texts without labels: read beside the labelled ones, and made by augmentation, with replacements of words."""

import logging
import math

import pytest
import torch
from datasets import Dataset, Features, List, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tkd_hf import InputError
from tkd_hf.data.augmentation import collect_words, replace_words, shuffle_pairs
from tkd_hf.data.tasks import Task, get_task
from tkd_hf.data.unlabelled import append_unlabelled, drop_duplicates, read_unlabelled
from tkd_hf.teachers.replacement_words import MaskedWords, NearestWords, _single_token_words

from ..factories import TEXTS, WORDS, build_tokenizer


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


def test_the_seed_decides_the_copies(mlm, tokenizer, texts):
    first, same_seed, other_seed = (rewrite(texts, mlm, tokenizer, seed=seed).to_dict() for seed in (1, 1, 2))
    assert first == same_seed
    assert first != other_seed


def test_copies_do_not_depend_on_the_batch_size(mlm, tokenizer, texts):
    single, batched = (rewrite(texts, mlm, tokenizer, seed=1, batch_size=size).to_dict() for size in (1, 7))
    assert single == batched


def test_a_model_in_training_mode_stays_in_it_and_runs_without_dropout(mlm, tokenizer, texts):
    assert mlm.training
    new = rewrite(texts, mlm, tokenizer).to_dict()
    assert mlm.training
    assert new == rewrite(texts, mlm.eval(), tokenizer).to_dict()


def test_probability_0_replaces_no_word_and_1_replaces_every_word(mlm, tokenizer, texts):
    assert len(rewrite(texts, mlm, tokenizer, probability=0)) == 0
    new = rewrite(Dataset.from_dict({"text": [TEXTS[6]]}), mlm, tokenizer, copies=20, probability=1)
    assert len(new) > 10
    for text in new["text"]:
        replaced = text.split()
        assert len(replaced) == 7
        assert all(old != word for old, word in zip(TEXTS[6].split(), replaced, strict=True))


def test_words_are_replaced_with_the_given_probability(mlm, tokenizer):
    text = "good film " * 6
    new = rewrite(Dataset.from_dict({"text": [text]}), mlm, tokenizer, copies=200, probability=0.25)
    changed = sum(a != b for copy in new["text"] for a, b in zip(text.split(), copy.split(), strict=True))
    assert changed / (12 * len(new)) == pytest.approx(0.25, abs=0.05)


def test_only_whole_words_are_proposed(mlm, texts):
    """Special tokens, pieces of words and punctuation are excluded even if the model finds them most likely."""
    words = [*WORDS[:5], *"good film ##ing . , bad fine very dull story".split()]
    tokenizer = build_tokenizer(words)
    with torch.no_grad():
        mlm.cls.predictions.bias[:] = torch.tensor([100.0 if word not in VOCABULARY else 0.0 for word in words])
    new = rewrite(texts, mlm, tokenizer, probability=1, copies=10)
    assert {word for text in new["text"] for word in text.split()} <= VOCABULARY


def test_the_most_likely_words_are_proposed(mlm, tokenizer):
    favourites = [WORDS.index(word) for word in ("story", "dull")]
    with torch.no_grad():
        mlm.cls.predictions.bias[favourites] = torch.tensor([100.0, 90.0])
    new = rewrite(Dataset.from_dict({"text": ["a film", "story b"]}), mlm, tokenizer, 30, 1, candidates=1)
    assert new["text"][:] == ["story story", "dull story"]


def test_proposals_are_predictions_for_a_text_with_one_masked_word(mlm, tokenizer):
    mlm.eval()
    masked = tokenizer("a [MASK] fine story", return_tensors="pt")
    logits = mlm(**masked).logits[0, 2]
    ranked = [WORDS[i] for i in logits.argsort(descending=True) if WORDS[i] in VOCABULARY - {"very"}]
    new = rewrite(Dataset.from_dict({"text": ["a very fine story"]}), mlm, tokenizer, 300, 0.25, candidates=3)
    single = [text.split()[1] for text in new["text"] if text.split()[0::2] == ["a", "fine"] and "story" in text[-5:]]
    assert set(single) == set(ranked[:3])


def test_spaces_and_punctuation_stay(mlm, tokenizer):
    text = "  good -- (film), it's «dull»!  "
    (new,) = rewrite(Dataset.from_dict({"text": [text]}), mlm, tokenizer, 1, 1)["text"]
    parts = new.split("--")[0], new.split("(")[1].split(")")[0]
    assert new.replace(parts[0], "").startswith("-- (")
    assert new.startswith("  ")
    assert new.endswith("»!  ")
    assert set(parts[1].split()) <= VOCABULARY


def test_both_texts_of_a_copy_come_from_the_same_example(mlm, tokenizer):
    """The numbers of words tell the two examples apart, and the copies of an example are together."""
    pairs = Dataset.from_dict({"text": ["b b b", "a a a"], "text_pair": ["film film film film", "dull dull"]})
    pairs = pairs.add_column("label", [1, 0])
    new = rewrite(pairs, mlm, tokenizer, copies=10)
    assert new.column_names == ["text", "text_pair"]
    lengths = [len(text.split()) for text in new["text_pair"]]
    assert set(lengths) == {4, 2}
    assert lengths == sorted(lengths, reverse=True)
    assert any("b" in text.split() for text, length in zip(new["text"], lengths, strict=True) if length == 4)
    only_good = rewrite(pairs, mlm, tokenizer, copies=3, probability=1, words={"good"})
    assert only_good.to_dict() == {
        "text": ["good good good", "good good good"],
        "text_pair": ["good good good good", "good good"],
    }


def test_copies_are_distinct_and_differ_from_the_examples(mlm, tokenizer):
    short = Dataset.from_dict({"text": ["b", "a", "fine"]})
    new = rewrite(short, mlm, tokenizer, copies=50, probability=0.9)["text"][:]
    assert len(set(new)) == len(new)
    assert not {"b", "a", "fine"} & set(new)


def test_proposals_can_be_restricted_to_given_words(mlm, tokenizer, texts):
    new = rewrite(texts, mlm, tokenizer, probability=1, copies=10, words={"good", "bad"})
    assert collect_words(new) <= {"good", "bad"}
    with pytest.raises(InputError, match="no word that could be proposed"):
        rewrite(texts, mlm, tokenizer, words={"unheard"})


def test_words_beyond_the_maximum_length_are_not_replaced(mlm, tokenizer):
    long = Dataset.from_dict({"text": ["good " * 40 + "film"]})
    (new,) = rewrite(long, mlm, tokenizer, 1, 1)["text"]
    assert "good" not in new.split()[:30]
    assert new.split()[30:] == ["good"] * 10 + ["film"]


def test_a_text_that_contains_the_mask_token_is_not_changed(mlm, tokenizer):
    assert len(rewrite(Dataset.from_dict({"text": ["a [MASK] film"]}), mlm, tokenizer, 5, 1)) == 0


@pytest.mark.parametrize("marker", ["Ġ", "▁"])
def test_in_vocabularies_that_mark_word_starts_only_marked_tokens_are_words(marker):
    """`Ġfilm` is the word; `film` without the marker continues another word."""
    tokens = ["<s>", "<mask>", "<unk>", ",", marker, f"{marker}film", "film", "ing", f"{marker}good", f"{marker}."]
    backend = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=2))
    if marker == "Ġ":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = {"bos_token": "<s>", "mask_token": "<mask>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    assert _single_token_words(tokenizer) == {5: "film", 8: "good"}


def test_a_model_that_does_not_fit_its_tokenizer_or_has_no_mask_is_refused(mlm, tokenizer, texts):
    with pytest.raises(InputError, match="has 15 tokens, the model 12: they do not belong together"):
        rewrite(texts, build_mlm(12), tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        rewrite(texts, mlm, tokenizer)


def test_nearest_words_are_ranked_by_the_angle_between_embeddings(mlm, tokenizer):
    """`dull` points exactly where `good` does and is ten times as long, so the length must not matter."""
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


def test_a_word_that_is_not_one_token_is_never_replaced(mlm, tokenizer):
    nearest = NearestWords(mlm, tokenizer)
    assert nearest([("unheard good", 0, 7)]) == [[]]
    new = replace_words(Dataset.from_dict({"text": ["unheard good"]}), nearest, 5, 1)["text"]
    assert {text.split()[0] for text in new} == {"unheard"}
    assert "good" not in {text.split()[1] for text in new}


def test_nearest_words_refuse_a_model_that_does_not_fit_its_tokenizer(mlm, tokenizer):
    with pytest.raises(InputError, match="has 15 tokens, the model 12: they do not belong together"):
        NearestWords(build_mlm(12), tokenizer)
    with pytest.raises(InputError, match="no word that could be proposed"):
        NearestWords(mlm, tokenizer, words={"unheard"})


def test_shuffled_pairs_are_new_and_use_every_text_equally_often():
    pairs = {"text": list("abcdef"), "text_pair": list("ghijkl")}
    new = shuffle_pairs(Dataset.from_dict({**pairs, "label": [0] * 6}), copies=3, seed=1)
    new_pairs = list(zip(new["text"], new["text_pair"], strict=True))
    assert new.column_names == ["text", "text_pair"]
    assert len(set(new_pairs)) == 18
    assert not set(new_pairs) & set(zip(*pairs.values(), strict=True))
    assert all(new["text"][:].count(text) == 3 for text in "abcdef")
    assert all(new["text_pair"][:].count(text) == 3 for text in "ghijkl")
    same_seed, other_seed = (shuffle_pairs(Dataset.from_dict(pairs), copies=3, seed=seed).to_dict() for seed in (1, 2))
    assert same_seed == new.to_dict()
    assert other_seed != same_seed


def test_shuffling_drops_pairs_that_are_among_the_examples():
    """Two examples share their first text, so swapping their second texts gives no new pair."""
    pairs = Dataset.from_dict({"text": ["a", "a", "b"], "text_pair": ["c", "d", "e"]})
    new = shuffle_pairs(pairs, copies=2)
    assert sorted(zip(new["text"], new["text_pair"], strict=True)) == [("a", "e"), ("b", "c"), ("b", "d")]


def test_single_texts_and_too_many_copies_cannot_be_shuffled(texts):
    with pytest.raises(InputError, match="only pairs of texts can be shuffled"):
        shuffle_pairs(texts)
    with pytest.raises(InputError, match="2 new pairs per text are too many for 2 examples"):
        shuffle_pairs(Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", "d"]}), copies=2)


@pytest.mark.parametrize("architecture", ["distilbert", "electra", "albert", "roberta", "tkd", "without a decoder"])
def test_every_architecture_proposes_its_own_predictions(architecture, tokenizer, texts, monkeypatch):
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32} if architecture == "distilbert" else sizes
    name = "bert" if architecture == "without a decoder" else architecture
    config = AutoConfig.for_model(name, vocab_size=len(WORDS), initializer_range=0.5, pad_token_id=0, **small)
    model = AutoModelForMaskedLM.from_config(config).eval()
    if architecture == "without a decoder":
        monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    batch = tokenizer("a [MASK] film", return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ranked = [WORDS[i] for i in model(**batch).logits[0, 2].argsort(descending=True) if WORDS[i] in VOCABULARY]
    texts = Dataset.from_dict({"text": [f"a {ranked[2]} film"]})
    new = rewrite(texts, model, tokenizer, 300, 0.2, candidates=3)["text"]
    replacements = {text.split()[1] for text in new if text.split()[0::2] == ["a", "film"]}
    assert replacements == {ranked[0], ranked[1], ranked[3]}


def rows(*texts, **columns):
    return Dataset.from_dict({"text": list(texts), **columns})


def test_each_line_of_a_text_file_is_a_text_except_blank_lines(tmp_path):
    (tmp_path / "x.txt").write_text('a film\n\n  \nnot, "good"\tone\ncafé\n', encoding="utf-8")
    assert read_unlabelled([str(tmp_path / "x.txt")], get_task("sst2"))["text"][:] == [
        "a film",
        'not, "good"\tone',
        "café",
    ]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
@pytest.mark.parametrize("columns", [("sentence1", "sentence2"), ("text", "text_pair")])
def test_pairs_are_read_in_the_order_of_the_task(tmp_path, suffix, columns):
    """The order of the columns in the file does not matter; labels and other columns are dropped."""
    table = Dataset.from_dict({"label": [1, 0], columns[1]: ["b", "d"], "idx": [0, 1], columns[0]: ["a", "c"]})
    path = tmp_path / f"x.{suffix}"
    getattr(table, f"to_{suffix}")(str(path))
    texts = read_unlabelled([str(path)], get_task("mrpc"))
    assert texts.to_dict() == {"text": ["a", "c"], "text_pair": ["b", "d"]}


def test_another_task_can_be_a_source_if_it_has_as_many_texts_per_example(tmp_path):
    """The columns are those of the source task, in its order."""
    for name, columns in (("mnli", ("premise", "hypothesis")), ("sst2", ("sentence",))):
        (tmp_path / name).mkdir()
        texts = {column: [f"{column} 1", f"{column} 2"] for column in reversed(columns)}
        Dataset.from_dict(texts | {"label": [2, 0]}).to_parquet(tmp_path / name / "train.parquet")
    pairs = read_unlabelled(["mnli", "mnli:train[:1]"], get_task("rte"), str(tmp_path))
    assert pairs["text"][:] == ["premise 1", "premise 2", "premise 1"]
    assert pairs["text_pair"][:] == ["hypothesis 1", "hypothesis 2", "hypothesis 1"]
    with pytest.raises(InputError, match="sst2 has the columns 'sentence', 'label'; rte needs 'sentence1' and"):
        read_unlabelled(["sst2"], get_task("rte"), str(tmp_path))


def test_several_sources_with_different_string_types_are_concatenated(tmp_path):
    (tmp_path / "x.txt").write_text("one\n")
    features = Features({"sentence": Value("large_string")})
    Dataset.from_dict({"sentence": ["two"]}, features=features).to_parquet(tmp_path / "y.parquet")
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        rows(split).to_parquet(tmp_path / "folder" / f"{split}.parquet")
    sources = [tmp_path / "x.txt", tmp_path / "y.parquet", tmp_path / "folder", f"{tmp_path / 'folder'}:test"]
    assert read_unlabelled(list(map(str, sources)), get_task("sst2"))["text"][:] == ["one", "two", "train", "test"]


def test_a_hub_data_set_is_requested_by_name_and_split(monkeypatch):
    requests = []

    def load(*args, split, **kwargs):
        requests.append((*args, split))
        return Dataset.from_dict({"sentence": ["x"], "label": [0]})

    monkeypatch.setattr("tkd_hf.data.loading.load_dataset", load)
    read_unlabelled(["org/name", "org/name:test[:10%]"], Task("t", ("sentence",), ()))
    assert requests == [("org/name", None, "train"), ("org/name", None, "test[:10%]")]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("x.txt", b"", "sst2", r"x.txt"),
        ("x.txt", b"\n \n", "sst2", r"x.txt has no examples"),
        ("x.txt", b"caf\xe9\n", "sst2", r"split 'train' cannot be read from .*x.txt: .*utf-8"),
        (
            "x.txt",
            b"a\nb\n",
            "mrpc",
            r"x.txt has the columns 'text'; mrpc needs 'sentence1' and 'sentence2' or 'text' and",
        ),
        ("x.csv", b"", "sst2", r"x.csv is empty; its first line must name the columns"),
        ("x.csv", b"text,label\n", "sst2", r"x.csv"),
        ("x.csv", b"text,label\n3,1\n", "sst2", r"column 'text' of .*x.csv holds Value\('int64'\), not texts"),
        ("x.csv", b"text,label\na,1\n,0\n", "sst2", r"column 'text' of .*x.csv has empty texts"),
        ("x.csv", b"body\na\n", "sst2", r"x.csv has the columns 'body'; sst2 needs 'sentence' or 'text'"),
        ("x.pdf", b"a", "sst2", r"x.pdf has the ending '.pdf'; the readable ones are .*\.txt"),
        (None, None, "sst2", r"there is no file or folder .*missing.txt"),
    ],
)
def test_unreadable_sources_are_refused_with_the_cause_in_one_line(tmp_path, name, content, task, message):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_unlabelled([str(tmp_path / (name or "missing.txt"))], get_task(task))
    assert len(str(error.value).splitlines()) == 1


def test_duplicates_are_dropped_and_counted_by_where_they_occur(caplog):
    caplog.set_level(logging.INFO, "tkd_hf")
    train, evaluation = rows("Good  film", "both", label=[1, 0]), rows("dull", "both", label=[0, 0])
    extra = rows("good film", "new", "DULL ", "both", "new", "dull", "newer")
    assert drop_duplicates(extra, train, evaluation)["text"][:] == ["new", "newer"]
    for part in (
        "2 unlabelled examples",
        "1 already in the training",
        "3 already in the evaluation",
        "1 already in the unl",
    ):
        assert part in caplog.text
    with pytest.raises(
        InputError, match=r"none of the 1 unlabelled examples is new: left out 1 already in the evaluation"
    ):
        drop_duplicates(rows("both"), train, evaluation)


def test_a_pair_is_a_duplicate_only_if_both_texts_are_the_same():
    train = rows("a", "c", text_pair=["b", "d"])
    extra = rows("a", "c", "a", text_pair=["d", "d", "c"])
    assert drop_duplicates(extra, train, train).to_dict() == {"text": ["a", "a"], "text_pair": ["d", "c"]}


@pytest.mark.parametrize(
    ("label", "feature"),
    [(1, Value("int64")), (0.5, Value("float32")), ([1.0, 0.0, 1.0], List(Value("float32")))],
)
def test_unlabelled_rows_get_the_label_that_the_hard_loss_ignores(label, feature):
    train = Dataset.from_dict({"text": ["a"], "label": [label]}, Features({"text": Value("string"), "label": feature}))
    joined = append_unlabelled(train, rows("b"))
    assert joined.features == train.features
    assert joined["text"][:] == ["a", "b"]
    assert joined[0]["label"] == label
    missing = joined[1]["label"]
    if label == 1:
        assert missing == -100
    else:
        values = missing if isinstance(missing, list) else [missing]
        assert len(values) == (3 if isinstance(label, list) else 1)
        assert all(math.isnan(value) for value in values)


def test_training_data_without_labels_stays_without_labels():
    assert append_unlabelled(rows("a"), rows("b")).to_dict() == {"text": ["a", "b"]}
