"""Labels of every type, per text and per word: matched by name, none is made up, gaps are refused with their rows."""

import datetime
import decimal
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from tkd_hf import InputError
from tkd_hf.data.arguments import DataArguments
from tkd_hf.data.collation import DistillationCollator
from tkd_hf.data.labels import code_indices
from tkd_hf.data.loading import load_split, load_splits, normalise
from tkd_hf.data.tasks import Task
from tkd_hf.data.tokenization import tokenize

from ..factories import WORDS, build_tokenizer
from .test_loading import write


def load(tmp_path, labels, kind=None, fallback=(), **fields):
    """Return codes and label names of a file with one text per label."""
    table = pa.table({"text": [f"t{i}" for i in range(len(labels))], "label": pa.array(labels, kind)})
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table, tmp_path / "validation.parquet")
    rows, task = load_split(DataArguments(dataset=str(tmp_path), **fields), "train", fallback)
    return rows["label"][:], task.label_names


@pytest.mark.parametrize(
    ("labels", "kind", "codes", "names"),
    [
        ([False, True], pa.bool_(), [0, 1], ("False", "True")),
        ([decimal.Decimal(1), decimal.Decimal(0)], pa.decimal128(5, 0), [1, 0], ("LABEL_0", "LABEL_1")),
        ([b"no", b"yes"], pa.binary(), [0, 1], ("no", "yes")),
        (["no", "yes"], pa.string_view(), [0, 1], ("no", "yes")),
        (["no", "yes"], pa.large_string(), [0, 1], ("no", "yes")),
        (["no", "yes"], pa.dictionary(pa.int32(), pa.string()), [0, 1], ("no", "yes")),
        ([1, 0], pa.uint8(), [1, 0], ("LABEL_0", "LABEL_1")),
        ([["a"], ["b", "a"]], pa.large_list(pa.large_string()), [[1.0, 0.0], [1.0, 1.0]], ("a", "b")),
        ([["a"], ["b"]], pa.list_(pa.string_view()), [[1.0, 0.0], [0.0, 1.0]], ("a", "b")),
        ([decimal.Decimal("0.5"), decimal.Decimal("1.0")], pa.decimal128(5, 1), [0.5, 1.0], ()),
    ],
)
def test_labels_of_every_arrow_type_are_read_as_what_they_mean(tmp_path, labels, kind, codes, names):
    assert load(tmp_path, labels, kind) == (codes, names)


def test_texts_of_every_arrow_type_of_strings_are_read(tmp_path):
    for kind in (pa.string_view(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        texts = pa.array(["fine", "dull"]).cast(kind) if kind != pa.binary() else pa.array([b"fine", b"dull"])
        pq.write_table(pa.table({"text": texts}), tmp_path / "train.parquet")
        assert load_split(DataArguments(dataset=str(tmp_path)), "train")[0]["text"][:] == ["fine", "dull"]


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([datetime.date(2020, 1, 1)], pa.date32(), "holds Value\\('date32'\\), neither classes nor numbers"),
        ([None, None], pa.null(), "empty entries in 2 of 2 rows"),
        ([b"\xff"], pa.binary(), "'label' holds bytes that are no UTF-8"),
        ([0, None, 1, None], pa.int64(), r"empty entries in 2 of 4 rows \(row 2, 4, counted from 1\)"),
        ([0.5, None], pa.float64(), "empty entries in 1 of 2 rows"),
        ([0.5, float("nan")], pa.float64(), r"scores that are not finite \(nan\) in 1 of 2 rows \(row 2"),
        ([0.5, float("inf")], pa.float32(), r"scores that are not finite \(inf\)"),
        ([0.0, float("nan"), 1.0], pa.float64(), "codes beside gaps are stored as decimals"),
        ([["a"], None], pa.list_(pa.string()), "empty entries in 1 of 2 rows"),
        ([["a", None]], pa.list_(pa.string()), "empty entries in 1 of 1 rows"),
        ([[1], [0]], pa.list_(pa.int64()), "lists of one number"),
        ([[0, 1], [1]], pa.list_(pa.int64()), "neither of class names nor multi-hot"),
        ([-1, 0, 1], pa.int64(), r"the code -1 beside others; .*--label-names=-1,0,1"),
        (
            ['["a"]', '["b"]'],
            pa.string(),
            r"several labels in one text, such as '\[\"a\"\]'; convert the file to jsonl",
        ),
        (["[1, 0]", "[0, 1]"], pa.string(), "several labels in one text"),
        (["a;b", "b;c"], pa.string(), "several labels in one text, such as 'a;b'"),
        (["a", "a,b"], pa.string(), "several labels in one text, such as 'a,b'"),
        (list(range(5001)), pa.int64(), "5001 different labels, more than 5000; is it the right column"),
    ],
)
def test_labels_that_are_no_classes_or_missing_are_refused_with_their_rows(tmp_path, labels, kind, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, labels, kind)


def test_names_that_only_look_like_lists_are_names(tmp_path):
    labels = ["[spam]", "[/url]", "Smith, John", "Smith, Bob", "a; b"]
    assert set(load(tmp_path, labels)[1]) == set(labels)


def test_codes_that_do_not_start_at_0_are_classes_called_by_their_number(tmp_path, caplog):
    """A class for every number up to the largest would take 21 GB for 9999999999, and train on made-up classes."""
    caplog.set_level("INFO", "tkd_hf")
    assert load(tmp_path, [5, 1, 3, 1]) == ([2, 0, 1, 0], ("1", "3", "5"))
    assert "3 codes that are not 0 to 2; each is a class called by its number: 1, 3, 5" in caplog.text
    assert load(tmp_path, [0, 9999999999, 1]) == ([0, 2, 1], ("0", "1", "9999999999"))
    assert load(tmp_path, [-1, 1], label_names=("-1", "1")) == ([0, 1], ("-1", "1"))


def test_leading_zeros_make_a_csv_cell_a_name(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,007\nb,010\nc,1\n")
    rows, task = load_split(DataArguments(dataset=str(tmp_path), eval_split="train"), "train")
    assert (rows["label"][:], task.label_names) == ([1, 2, 0], ("1", "007", "010"))


def test_codes_are_matched_with_classes_called_by_numbers_by_name(tmp_path):
    """A model's names 0 to 11 may stand in the order of text: 0, 1, 10, 11, 2; by position, accuracy fell to 0.17."""
    by_text = tuple(sorted(map(str, range(12))))
    assert load(tmp_path, [2, 10], fallback=by_text) == ([4, 2], by_text)
    assert load(tmp_path, [True, False], pa.bool_(), ("True", "False")) == ([0, 1], ("True", "False"))
    assert load(tmp_path, [2, 10], fallback=("LABEL_10", "LABEL_2"))[0] == [1, 0]
    assert load(tmp_path, [1, 0], fallback=("no", "yes"))[0] == [1, 0]
    with pytest.raises(InputError, match=r"label codes \[3\] have no name among the 2"):
        load(tmp_path, [3, 10], fallback=("10", "2"))
    with pytest.raises(InputError, match="do not tell which code each has"):
        code_indices(["1", "other", "2"])


def test_numbers_as_texts_are_classes_in_the_order_of_numbers(tmp_path):
    assert load(tmp_path, ["10", "9", "0"])[1] == ("0", "9", "10")


def test_a_teacher_called_by_numbers_names_the_codes_of_the_data(tmp_path):
    teacher = SimpleNamespace(num_labels=3, id2label={0: "0", 1: "2", 2: "1"})
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": [0, 1, 2]})
    train, evaluation, task = load_splits(data, teacher)
    assert train["label"][:] == evaluation["label"][:] == [0, 2, 1]
    assert task.label_names == ("0", "2", "1")


def test_given_names_in_another_order_than_the_data_declares_are_matched_by_name(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    folder = write(tmp_path / "d", {"text": ["x", "y"], "label": [1, 0]}, features=features).dataset

    def codes(*names):
        return load_split(DataArguments(dataset=folder, label_names=names), "train")[0]["label"][:]

    assert codes("yes", "no") == [0, 1]
    assert codes("nein", "ja") == codes("no", "yes") == [1, 0]
    with pytest.raises(InputError, match=r"calls its classes \['no', 'yes'\], but \['yes', 'maybe'\] are given"):
        codes("yes", "maybe")


def test_label_names_for_scores_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds scores \(numbers with decimals\), but the label names \['a', 'b'\]"):
        load(tmp_path, [0.5, 1.0], label_names=("a", "b"))


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        ("regression", ["a", "b"], "no labels for regression"),
        ("regression", [1.0, 1e300], r"not finite \(inf\) in 1 of 2 rows"),
        ("multi_label_classification", [0, 1], "no labels for multi_label_classification"),
        ("single_label_classification", [[0], [1]], "no labels for single_label_classification"),
        ("single_label_classification", [0.5, 1.0], "no labels for single_label_classification"),
        ("single_label_classification", [0, None], "empty entries in 1 of 2 rows"),
    ],
)
def test_labels_of_a_registered_task_that_its_problem_cannot_have_are_refused(problem_type, labels, message):
    task = Task("t", ("text",), (), ("a", "b"), problem_type=problem_type)
    with pytest.raises(InputError, match=message):
        normalise(Dataset.from_dict({"text": ["x", "y"], "label": labels}), task)


def test_multi_hot_lists_of_another_width_than_the_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="have 2 positions, but there are 3 label names"):
        load(tmp_path, [[0, 1]], label_names=("a", "b", "c"))


def test_words_for_gaps_are_texts_and_classes_in_csv(tmp_path):
    """pandas reads None, null and NA as missing."""
    (tmp_path / "train.csv").write_text("text,label\nNone,spam\nnull,NA\nNA,None\n")
    rows, task = load_split(DataArguments(dataset=str(tmp_path), eval_split="train"), "train")
    assert rows["text"][:] == ["None", "null", "NA"]
    assert (rows["label"][:], task.label_names) == ([2, 0, 1], ("NA", "None", "spam"))


def test_a_missing_code_in_csv_is_refused_and_does_not_make_scores(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,\nc,1\n")
    with pytest.raises(InputError, match=r"label column 'label' has empty entries in 1 of 3 rows \(row 2"):
        load_split(DataArguments(dataset=str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_columns": ("a", "b", "c")}, "3 text columns are named: 'a', 'b', 'c'"),
        ({"text_columns": ("a", "a")}, "the text column is named twice: 'a', 'a'"),
        ({"text_columns": ("a",), "label_column": "a"}, "'a' is named as the label column and among"),
    ],
)
def test_columns_that_cannot_all_be_meant_are_refused(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        load_split(DataArguments(dataset=str(tmp_path), **fields), "train")


SENTENCES = [["Ada", "Lovelace", "wrote"], ["London"]]
NAMES = ("B-LOC", "B-PER", "I-PER", "O")
LABELS, CODES = [["B-PER", "I-PER", "O"], ["B-LOC"]], [[1, 2, 3], [0]]


def write_words(folder, rows, features=None, suffix="json"):
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
    folder = write_words(
        tmp_path / "d", {word_column: SENTENCES, label_column: LABELS, "id": ["0", "1"]}, suffix=suffix
    )
    train, _, task = load_splits(DataArguments(dataset=folder))
    assert (task.problem_type, task.label_names) == ("token_classification", NAMES)
    assert task.metrics == ("entity_f1", "accuracy")
    assert (train["text"][:], train["label"][:]) == (SENTENCES, CODES)


def test_label_names_come_from_the_data_or_the_user_or_are_made_up(tmp_path):
    features = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(NAMES)))}
    rows = {"tokens": SENTENCES, "ner_tags": CODES}
    declared = load_split(
        DataArguments(dataset=write_words(tmp_path / "a", rows, Features(features), "parquet")), "train"
    )
    folder = write_words(tmp_path / "b", rows)
    given = load_split(DataArguments(dataset=folder, label_names=NAMES), "train")
    for train, task in (declared, given):
        assert (task.label_names, train["label"][:]) == (NAMES, CODES)
    _, task = load_split(DataArguments(dataset=folder), "train")
    assert task.label_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


def test_unusual_columns_can_be_named_and_labels_may_be_missing(tmp_path):
    folder = write_words(tmp_path / "d", {"pieces": SENTENCES, "kinds": LABELS})
    data = DataArguments(dataset=folder, text_columns=("pieces",), label_column="kinds")
    assert load_split(data, "train")[0]["label"][:] == CODES
    rows, task = load_split(DataArguments(dataset=folder, text_columns=("pieces",)), "train")
    assert (rows.column_names, task.problem_type) == (["text"], "token_classification")


def test_label_minus_100_is_kept_and_hidden_labels_are_dropped(tmp_path):
    folder = write_words(tmp_path / "d", {"tokens": SENTENCES, "tags": [[0, -100, 1], [-100]]})
    assert load_split(DataArguments(dataset=folder), "train")[0]["label"][:] == [[0, -100, 1], [-100]]
    folder = write_words(tmp_path / "hidden", {"tokens": SENTENCES, "tags": [[-1, -1, -1], [-1]]})
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
    folder = write_words(tmp_path / "d", {"tokens": SENTENCES} | rows)
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
