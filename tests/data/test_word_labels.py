"""Labels per word: from any source they become one code per word, aligned with tokens; errors name the cause."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from tkd_hf import InputError
from tkd_hf.data.arguments import DataArguments
from tkd_hf.data.collation import DistillationCollator
from tkd_hf.data.loading import load_split, load_splits
from tkd_hf.data.tokenization import tokenize

from ..factories import WORDS, build_tokenizer


SENTENCES = [["Ada", "Lovelace", "wrote"], ["London"]]
NAMES = ("B-LOC", "B-PER", "I-PER", "O")
LABELS, CODES = [["B-PER", "I-PER", "O"], ["B-LOC"]], [[1, 2, 3], [0]]


def write(folder, rows, features=None, suffix="json"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation"):
        split = Dataset.from_dict(rows, features=features)
        {"json": split.to_json, "parquet": split.to_parquet}[suffix](str(folder / f"{name}.{suffix}"))
    return str(folder)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize(
    ("word_column", "label_column"), [("tokens", "ner_tags"), ("words", "tags"), ("tokens", "labels")]
)
def test_columns_with_usual_names_are_recognized(tmp_path, suffix, word_column, label_column):
    folder = write(tmp_path / "d", {word_column: SENTENCES, label_column: LABELS, "id": ["0", "1"]}, suffix=suffix)
    train, _, task = load_splits(DataArguments(dataset=folder))
    assert (task.problem_type, task.label_names) == ("token_classification", NAMES)
    assert task.metrics == ("entity_f1", "accuracy")
    assert (train["text"][:], train["label"][:]) == (SENTENCES, CODES)


def test_label_names_come_from_the_data_or_the_user_or_are_made_up(tmp_path):
    features = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(NAMES)))}
    rows = {"tokens": SENTENCES, "ner_tags": CODES}
    declared = load_split(DataArguments(dataset=write(tmp_path / "a", rows, Features(features), "parquet")), "train")
    folder = write(tmp_path / "b", rows)
    given = load_split(DataArguments(dataset=folder, label_names=NAMES), "train")
    for train, task in (declared, given):
        assert (task.label_names, train["label"][:]) == (NAMES, CODES)
    _, task = load_split(DataArguments(dataset=folder), "train")
    assert task.label_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


def test_unusual_columns_can_be_named_and_labels_may_be_missing(tmp_path):
    folder = write(tmp_path / "d", {"pieces": SENTENCES, "kinds": LABELS})
    data = DataArguments(dataset=folder, text_columns=("pieces",), label_column="kinds")
    assert load_split(data, "train")[0]["label"][:] == CODES
    rows, task = load_split(DataArguments(dataset=folder, text_columns=("pieces",)), "train")
    assert (rows.column_names, task.problem_type) == (["text"], "token_classification")


def test_label_minus_100_is_kept_and_hidden_labels_are_dropped(tmp_path):
    folder = write(tmp_path / "d", {"tokens": SENTENCES, "tags": [[0, -100, 1], [-100]]})
    assert load_split(DataArguments(dataset=folder), "train")[0]["label"][:] == [[0, -100, 1], [-100]]
    folder = write(tmp_path / "hidden", {"tokens": SENTENCES, "tags": [[-1, -1, -1], [-1]]})
    assert load_split(DataArguments(dataset=folder), "train")[0].column_names == ["text"]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (
            {"tags": [["a"], ["a"]]},
            {},
            r"example 0 of d has 3 words in 'tokens', but 1 labels in 'tags'; each word needs",
        ),
        ({"tokens": [["x"], []], "tags": [["a"], []]}, {}, r"example 1 of d has no words in 'tokens'; drop it"),
        ({"tokens": [["x", " "]], "tags": [["a", "a"]]}, {}, r"example 0 of d has an empty word in 'tokens'"),
        (
            {"tags": LABELS},
            {"label_names": ("O",)},
            r"labels \['B-LOC', 'B-PER', 'I-PER'\] in 'tags' are not among the 1",
        ),
        (
            {"tags": CODES},
            {"label_names": ("O", "I")},
            r"labels \[2, 3\] in 'tags' are not among the 2 labels: \['O', 'I'",
        ),
        ({"tags": [[-100] * 3, [-100]]}, {}, r"all labels of d in 'tags' are -100, .*give at least one word a label"),
        ({"tags": [["a", None, "a"], ["a"]]}, {}, r"label column 'tags' has empty entries"),
        ({"label": [0, 1]}, {}, r"label column 'label' holds Value.*for lists of words it must hold lists of labels"),
        ({"tags": [[0.5] * 3, [0.5]]}, {}, r"label column 'tags' holds List.*lists of labels: names or codes"),
        ({"tags": LABELS}, {"label_column": "y"}, r"no label column 'y'; the columns are 'tokens', 'tags'"),
        (
            {"tags": LABELS},
            {"text_columns": ("tokens", "tags")},
            r"lists of words in 'tokens', 'tags' cannot form pairs",
        ),
        (
            {"tokens": [[1, 2], [3]], "tags": LABELS},
            {},
            r"column 'tokens' holds List.*neither texts nor lists of words",
        ),
    ],
)
def test_unusable_word_labels_are_refused_with_the_cause(tmp_path, rows, fields, message):
    folder = write(tmp_path / "d", {"tokens": SENTENCES} | rows)
    with pytest.raises(InputError, match=message):
        load_splits(DataArguments(dataset=folder, **fields))


@pytest.fixture
def subwords():
    """Return a WordPiece tokenizer that splits `unkind` into `un ##kind` and `lovely` into `love ##ly`."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##kind", "love", "##ly", "day", ","]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)


def test_only_the_first_token_of_a_word_has_its_label(subwords):
    rows = Dataset.from_dict({"text": [["Unkind", "day"], ["xyz", "lovely,", "day"]], "label": [[4, 5], [6, 7, 8]]})
    features = tokenize(rows, subwords)
    tokens = [subwords.convert_ids_to_tokens(ids) for ids in features["input_ids"]]
    assert tokens == [
        ["[CLS]", "un", "##kind", "day", "[SEP]"],
        ["[CLS]", "[UNK]", "love", "##ly", ",", "day", "[SEP]"],
    ]
    assert features["label"][:] == [[-100, 4, -100, 5, -100], [-100, 6, 7, -100, -100, 8, -100]]
    truncated = tokenize(rows, subwords, max_length=4)
    assert truncated["label"][:] == [[-100, 4, -100, -100], [-100, 6, 7, -100]]


def test_word_lists_are_tokenized_like_running_text():
    """Byte-level tokenizers encode the space before a word together with the word."""
    letters = {chr(letter): letter for letter in range(97, 123)}
    tokenizer = RobertaTokenizer(
        vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "Ġ": 5, "Ġa": 6, **letters},
        merges=[("Ġ", "a")],
    )
    rows = Dataset.from_dict({"text": [["a", "b", "a"]], "label": [[7, 8, 9]]})
    features = tokenize(rows, tokenizer)
    assert features["input_ids"][0] == tokenizer("a b a")["input_ids"]
    assert features["label"][0] == [-100, 7, 8, -100, 9, -100]


def test_a_teacher_with_another_tokenizer_is_refused_for_word_labels(tokenizer):
    rows = Dataset.from_dict({"text": [["good"]], "label": [[0]]})
    other_tokenizer = build_tokenizer([*WORDS[:5], "good"], name_or_path="org/other")
    with pytest.raises(InputError, match=r"student, \w+ \(15 tokens\), and the teacher, org/other \(6 tokens"):
        tokenize(rows, tokenizer, teacher_tokenizer=other_tokenizer)
    assert tokenize(rows, tokenizer, teacher_tokenizer=build_tokenizer()).num_rows == 1


@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_and_logits_per_token_are_padded_on_the_side_of_the_tokens(side):
    rows = [
        {"input_ids": [2, 7, 3], "label": [-100, 1, -100], "teacher_logits": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]},
        {"input_ids": [2], "label": [0], "teacher_logits": [[7.0, 8.0]]},
    ]
    batch = DistillationCollator(build_tokenizer(padding_side=side), pad_to_multiple_of=4)(rows)
    step = 1 if side == "right" else -1
    lists = {name: value.tolist() for name, value in batch.items()}
    assert [row[::step] for row in lists["labels"]] == [[-100, 1, -100, -100], [0, -100, -100, -100]]
    first, second = lists["teacher_logits"]
    assert second[::step] == [[7.0, 8.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert (first[:3] if side == "right" else first[1:]) == rows[0]["teacher_logits"]
    assert batch["teacher_logits"].shape == (2, 4, 2)


def test_multi_hot_labels_as_long_as_the_tokens_are_not_padded(tokenizer):
    rows = [{"input_ids": [2, 7, 3], "label": [1.0, 0.0, 1.0]}, {"input_ids": [2, 7, 3], "label": [0.0, 0.0, 1.0]}]
    batch = DistillationCollator(tokenizer, pad_to_multiple_of=4)(rows)
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
