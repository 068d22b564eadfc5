"""Words and tags from any source become codes, one a word; what cannot be aligned is named."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from tkd_hf import InputError
from tkd_hf.data.features import DistillationCollator, tokenize
from tkd_hf.data.loading import DataArguments, load_split, load_splits

from ..conftest import WORDS, build_tokenizer


WORDS_OF = [["Ada", "Lovelace", "wrote"], ["London"]]
NAMES = ("B-LOC", "B-PER", "I-PER", "O")
TAGS, CODES = [["B-PER", "I-PER", "O"], ["B-LOC"]], [[1, 2, 3], [0]]


def write(folder, rows, features=None, suffix="json"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation"):
        split = Dataset.from_dict(rows, features=features)
        {"json": split.to_json, "parquet": split.to_parquet}[suffix](str(folder / f"{name}.{suffix}"))
    return str(folder)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize(("words", "tags"), [("tokens", "ner_tags"), ("words", "tags"), ("tokens", "labels")])
def test_words_and_tags_are_found_by_their_usual_names(tmp_path, suffix, words, tags):
    folder = write(tmp_path / "d", {words: WORDS_OF, tags: TAGS, "id": ["0", "1"]}, suffix=suffix)
    train, _, task = load_splits(DataArguments(dataset=folder))
    assert (task.problem_type, task.label_names) == ("token_classification", NAMES)
    assert task.metrics == ("entity_f1", "accuracy")
    assert (train["text"][:], train["label"][:]) == (WORDS_OF, CODES)


def test_codes_with_names_of_the_data_of_the_user_and_without(tmp_path):
    kinds = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(NAMES)))}
    rows = {"tokens": WORDS_OF, "ner_tags": CODES}
    named = load_split(DataArguments(dataset=write(tmp_path / "a", rows, Features(kinds), "parquet")), "train")
    plain = write(tmp_path / "b", rows)
    given = load_split(DataArguments(dataset=plain, label_names=NAMES), "train")
    for train, task in (named, given):
        assert (task.label_names, train["label"][:]) == (NAMES, CODES)
    _, task = load_split(DataArguments(dataset=plain), "train")
    assert task.label_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


def test_other_columns_are_named_and_tags_may_be_missing(tmp_path):
    folder = write(tmp_path / "d", {"pieces": WORDS_OF, "kinds": TAGS})
    data = DataArguments(dataset=folder, text_columns=("pieces",), label_column="kinds")
    assert load_split(data, "train")[0]["label"][:] == CODES
    rows, task = load_split(DataArguments(dataset=folder, text_columns=("pieces",)), "train")
    assert (rows.column_names, task.problem_type) == (["text"], "token_classification")


def test_ignored_words_stay_ignored_and_hidden_tags_are_no_tags(tmp_path):
    folder = write(tmp_path / "d", {"tokens": WORDS_OF, "tags": [[0, -100, 1], [-100]]})
    assert load_split(DataArguments(dataset=folder), "train")[0]["label"][:] == [[0, -100, 1], [-100]]
    folder = write(tmp_path / "hidden", {"tokens": WORDS_OF, "tags": [[-1, -1, -1], [-1]]})
    assert load_split(DataArguments(dataset=folder), "train")[0].column_names == ["text"]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (
            {"tags": [["a"], ["a"]]},
            {},
            r"example 0 of d has 3 words in 'tokens', but 1 tags in 'tags'; each word needs",
        ),
        ({"tokens": [["x"], []], "tags": [["a"], []]}, {}, r"example 1 of d has no words in 'tokens'; drop it"),
        ({"tokens": [["x", " "]], "tags": [["a", "a"]]}, {}, r"example 0 of d has an empty word in 'tokens'"),
        ({"tags": TAGS}, {"label_names": ("O",)}, r"tags \['B-LOC', 'B-PER', 'I-PER'\] in 'tags' are not among the 1"),
        (
            {"tags": CODES},
            {"label_names": ("O", "I")},
            r"tags \[2, 3\] in 'tags' are not among the 2 labels: \['O', 'I'",
        ),
        ({"tags": [[-100] * 3, [-100]]}, {}, r"all tags of d in 'tags' are -100, so none of its words counts"),
        ({"tags": [["a", None, "a"], ["a"]]}, {}, r"label column 'tags' has empty entries"),
        ({"label": [0, 1]}, {}, r"label column 'label' holds Value.*beside lists of words it needs lists of tags"),
        ({"tags": [[0.5] * 3, [0.5]]}, {}, r"label column 'tags' holds List.*lists of tags: names or codes"),
        ({"tags": TAGS}, {"label_column": "y"}, r"no label column 'y'; the columns are 'tokens', 'tags'"),
        ({"tags": TAGS}, {"text_columns": ("tokens", "tags")}, r"lists of words in 'tokens', 'tags' make no pairs"),
        ({"tokens": [[1, 2], [3]], "tags": TAGS}, {}, r"column 'tokens' holds List.*neither texts nor lists of words"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, rows, fields, message):
    folder = write(tmp_path / "d", {"tokens": WORDS_OF} | rows)
    with pytest.raises(InputError, match=message):
        load_splits(DataArguments(dataset=folder, **fields))


@pytest.fixture
def subwords():
    """A WordPiece tokenizer that cuts `unkind` into `un`, `##kind` and `lovely` into `love`, `##ly`."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##kind", "love", "##ly", "day", ","]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)


def test_a_words_label_stands_at_its_first_subword(subwords):
    rows = Dataset.from_dict({"text": [["Unkind", "day"], ["xyz", "lovely,", "day"]], "label": [[4, 5], [6, 7, 8]]})
    features = tokenize(rows, subwords)
    tokens = [subwords.convert_ids_to_tokens(ids) for ids in features["input_ids"]]
    assert tokens == [
        ["[CLS]", "un", "##kind", "day", "[SEP]"],
        ["[CLS]", "[UNK]", "love", "##ly", ",", "day", "[SEP]"],
    ]
    assert features["label"][:] == [[-100, 4, -100, 5, -100], [-100, 6, 7, -100, -100, 8, -100]]
    cut = tokenize(rows, subwords, max_length=4)  # words that were cut off fall away
    assert cut["label"][:] == [[-100, 4, -100, -100], [-100, 6, 7, -100]]


def test_words_are_cut_as_they_are_in_running_text():
    """Byte-level tokenizers know a word in the middle of a text by the space before it."""
    letters = {chr(letter): letter for letter in range(97, 123)}
    tokenizer = RobertaTokenizer(
        vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "Ġ": 5, "Ġa": 6, **letters},
        merges=[("Ġ", "a")],
    )
    rows = Dataset.from_dict({"text": [["a", "b", "a"]], "label": [[7, 8, 9]]})
    features = tokenize(rows, tokenizer)
    assert features["input_ids"][0] == tokenizer("a b a")["input_ids"]
    assert features["label"][0] == [-100, 7, 8, -100, 9, -100]


def test_tokens_of_another_tokenizer_are_refused_by_name(tokenizer):
    rows = Dataset.from_dict({"text": [["good"]], "label": [[0]]})
    other = build_tokenizer([*WORDS[:5], "good"], name_or_path="org/other")
    with pytest.raises(InputError, match=r"student, \w+ \(15 tokens\), and the teacher, org/other \(6 tokens"):
        tokenize(rows, tokenizer, teacher_tokenizer=other)
    assert tokenize(rows, tokenizer, teacher_tokenizer=build_tokenizer()).num_rows == 1


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_collator_pads_labels_and_soft_labels_where_it_pads_tokens(side):
    rows = [
        {"input_ids": [2, 7, 3], "label": [-100, 1, -100], "teacher_logits": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]},
        {"input_ids": [2], "label": [0], "teacher_logits": [[7.0, 8.0]]},
    ]
    batch = DistillationCollator(build_tokenizer(padding_side=side), pad_to_multiple_of=4)(rows)
    order = 1 if side == "right" else -1
    flipped = {name: value.tolist() for name, value in batch.items()}
    assert [row[::order] for row in flipped["labels"]] == [[-100, 1, -100, -100], [0, -100, -100, -100]]
    first, second = flipped["teacher_logits"]
    assert second[::order] == [[7.0, 8.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert (first[:3] if side == "right" else first[1:]) == rows[0]["teacher_logits"]
    assert batch["teacher_logits"].shape == (2, 4, 2)


def test_several_labels_an_example_are_not_taken_for_tokens(tokenizer):
    rows = [{"input_ids": [2, 7, 3], "label": [1.0, 0.0, 1.0]}, {"input_ids": [2, 7, 3], "label": [0.0, 0.0, 1.0]}]
    batch = DistillationCollator(tokenizer, pad_to_multiple_of=4)(rows)
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
