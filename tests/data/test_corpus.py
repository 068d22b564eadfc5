"""The corpus for pre-training: packing, held-out sequences, caching, and masks that a resumed run repeats."""

import json

import datasets
import pytest
import torch
from datasets import Dataset

from tkd_hf.core.errors import InputError
from tkd_hf.data.arguments import CorpusArguments
from tkd_hf.data.corpus import MaskingCollator, corpus_fingerprint, load_corpus, stack_sequences

from ..factories import TEXTS, build_tokenizer


CLS, SEP, MASK = 2, 3, 4
LINES = TEXTS * 10


def write(path, lines=LINES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def load(dataset, length=8, **fields):
    return load_corpus(CorpusArguments(str(dataset), max_length=length, **fields), build_tokenizer())


def rows(sequences):
    return [row["input_ids"] for row in sequences]


def test_sequences_hold_the_texts_in_order_between_separators(tmp_path):
    """Six tokens of `good film [SEP] bad film [SEP] a very …` are between [CLS] and [SEP]."""
    tokenizer = build_tokenizer()
    train, evaluation = load(write(tmp_path / "text.txt", ["", *LINES, "   "]), eval_split=None)
    packed = rows(train) + rows(evaluation)
    assert all(len(row) == 8 and row[0] == CLS and row[-1] == SEP for row in packed)
    assert "[CLS] good film [SEP] bad film [SEP] [SEP]" in tokenizer.batch_decode(packed)
    assert "[CLS] a very fine story [SEP] dull [SEP]" in tokenizer.batch_decode(packed)
    assert all(row.count(0) == 0 for row in packed)  # no padding

    train, evaluation = load(write(tmp_path / "one.txt", [" ".join(["good", "bad", "film"] * 20)]))
    packed = tokenizer.batch_decode(rows(train) + rows(evaluation))
    assert set(packed) == {"[CLS] good bad film good bad film [SEP]"}
    assert len(packed) == 10  # sixty tokens, six per sequence


def test_a_text_that_ends_with_its_sequence_adds_no_second_separator(tmp_path):
    lines = ["a b good bad film dull"] * 5
    packed = build_tokenizer().batch_decode(rows(load(write(tmp_path / "t.txt", lines), max_sequences=4)[0]))
    assert set(packed) == {"[CLS] a b good bad film dull [SEP]"}


def test_every_file_format_and_a_folder_give_the_same_sequences(tmp_path):
    data = Dataset.from_dict({"text": LINES, "doc": ["x"] * len(LINES)})
    data.to_parquet(tmp_path / "parquet" / "novels.parquet")
    data.to_json(tmp_path / "corpus.jsonl")
    data.to_csv(tmp_path / "corpus.csv")
    (tmp_path / "corpus.json").write_text(json.dumps([{"sentence": text} for text in LINES]))
    expected = load(write(tmp_path / "corpus.txt"))
    for path in ("parquet", "corpus.jsonl", "corpus.csv", "corpus.json"):
        assert [rows(part) for part in load(tmp_path / path)] == [rows(part) for part in expected]

    for name in ("a", "b"):
        write(tmp_path / "two" / f"{name}.txt")
    both_files = load(tmp_path / "two")
    assert len(both_files[0]) + len(both_files[1]) == pytest.approx(2 * (len(expected[0]) + len(expected[1])), abs=1)


def test_evaluation_sequences_are_held_out_or_come_from_their_split(tmp_path):
    path = write(tmp_path / "corpus" / "text.txt")
    train, evaluation = load(path)
    assert len(evaluation) == 8  # the minimum, although it is more than one in a hundred
    train_again, evaluation_again = load(path)
    assert rows(evaluation_again) == rows(evaluation)
    assert corpus_fingerprint(train_again) == corpus_fingerprint(train) != corpus_fingerprint(evaluation)

    write(tmp_path / "corpus" / "held.txt", ["dull dull dull dull dull dull dull"] * 3)
    train, evaluation = load(tmp_path / "corpus", eval_split="held")
    assert set(rows(evaluation)[0]) == {CLS, 10, SEP}
    assert rows(load(tmp_path / "corpus", eval_split="text", train_split="held")[0]) == rows(evaluation)


def test_max_sequences_limits_both_parts_together(tmp_path):
    train, evaluation = load(write(tmp_path / "text.txt"), max_sequences=6)
    assert len(train) + len(evaluation) == 6


def test_packed_sequences_are_cached_until_the_text_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "text.txt")
    load(path)
    files = sorted(datasets.config.HF_DATASETS_CACHE.rglob("*.arrow"))
    load(path)
    assert sorted(datasets.config.HF_DATASETS_CACHE.rglob("*.arrow")) == files
    length_before = len(load(path)[0])
    write(tmp_path / "text.txt", LINES * 2)
    assert len(load(path)[0]) > length_before


def test_texts_that_begin_with_a_stray_quotation_mark_swallow_no_lines_of_a_corpus(tmp_path):
    texts = [('"' if i in (2, 5) else "") + "good film bad" for i in range(20)]
    written = Dataset.from_dict({"text": texts})
    written.to_json(tmp_path / "x.jsonl")
    expected = load(tmp_path / "x.jsonl")
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        write(tmp_path / f"x[1]{suffix}", [f"text{separator}id", *(f"{text}{separator}7" for text in texts)])
        write(tmp_path / f"x1{suffix}", [f"text{separator}id", *[f"dull{separator}7"] * 99])
        assert [rows(part) for part in load(tmp_path / f"x[1]{suffix}")] == [rows(part) for part in expected]


def test_a_hub_data_set_is_read_as_a_stream(tmp_path, monkeypatch):
    """The builder offers nothing but streams, so nothing can be downloaded as a whole."""
    splits = []

    class Builder:
        config_id, hash = "default", "commit"

        def as_streaming_dataset(self, split):
            splits.append(split)
            return Dataset.from_dict({"content": LINES}).to_iterable_dataset()

    monkeypatch.setattr("tkd_hf.data.corpus.load_dataset_builder", lambda *args, **kwargs: Builder())
    train, evaluation = load("org/corpus", text_column="content", train_split="all", eval_split="validation")
    assert set(splits) == {"all", "validation"}
    assert len(train) == len(evaluation) > 10


@pytest.mark.parametrize(
    ("lines", "fields", "message"),
    [
        ([], {}, "no rows"),
        (["", " "], {}, "shorter than one sequence of 8 tokens"),
        (["good film"], {}, "shorter than one sequence of 8 tokens"),
        (["good film bad film a b good"], {}, "one sequence of 8 tokens, so none is left to evaluate on"),
        (LINES, {"text_column": "body"}, "no column 'body' of text; name one with --text-column .there are 'text'."),
        (LINES, {"eval_split": "dev"}, r"no file 'dev' for the eval split; there are text\.txt"),
        (LINES, {"length": 3}, "max_length=3 leaves no room"),
    ],
)
def test_unusable_corpora_are_refused_in_one_line(tmp_path, lines, fields, message):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as error:
        load(path, **fields)
    assert "\n" not in str(error.value)


def test_unreadable_files_and_columns_are_refused_with_the_cause(tmp_path):
    Dataset.from_dict({"text": [1, 2], "other": ["a", "b"]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="no column 'text' or 'sentence' of text"):
        load(tmp_path / "numbers.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"bad\.parquet cannot be read: Parquet magic bytes not found"):
        load(tmp_path / "bad.parquet")
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": ')
    with pytest.raises(InputError, match=r"bad\.jsonl cannot be read: JSON parse error"):
        load(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match=r"must hold files of one kind \(endings found: \.pdf\)"):
        load(write(tmp_path / "text.pdf"))
    write(tmp_path / "mixed" / "a.txt")
    write(tmp_path / "mixed" / "b.csv")
    with pytest.raises(InputError, match=r"endings found: \.csv, \.txt"):
        load(tmp_path / "mixed")
    with pytest.raises(InputError, match="neither a local path nor can it be fetched"):
        load("org/no-such-corpus")


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask_token"):
        load_corpus(CorpusArguments(write(tmp_path / "text.txt")), tokenizer)


def test_masks_depend_only_on_batch_and_seed():
    examples = [{"input_ids": [CLS, *[5 + (i + j) % 10 for j in range(62)], SEP]} for i in range(16)]
    collator = MaskingCollator(build_tokenizer(), seed=1)
    batch = collator(examples)
    torch.manual_seed(5)
    same = MaskingCollator(build_tokenizer(), seed=1)(examples)
    assert all(torch.equal(batch[name], same[name]) for name in batch)
    for different in (MaskingCollator(build_tokenizer(), seed=2)(examples), collator(examples[::-1])):
        assert not torch.equal(batch["labels"], different["labels"])
        assert not torch.equal(batch["labels"], different["labels"].flip(0))


def test_masked_tokens_are_a_share_of_all_but_the_special_tokens():
    examples = [{"input_ids": [CLS, *[5 + (i + j) % 10 for j in range(62)], SEP]} for i in range(64)]
    batch, unmasked = MaskingCollator(build_tokenizer(), seed=0)(examples), stack_sequences(examples)
    chosen = batch["prediction_mask"]
    assert torch.equal(chosen, batch["labels"] != -100)
    assert torch.equal(batch["labels"][chosen], unmasked["input_ids"][chosen])
    assert torch.equal(batch["input_ids"][~chosen], unmasked["input_ids"][~chosen])
    assert not chosen[:, [0, -1]].any()  # special tokens
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert (batch["input_ids"][chosen] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.06)
    half_masked = MaskingCollator(build_tokenizer(), mlm_probability=0.5, seed=0)(examples)
    assert half_masked["prediction_mask"].float().mean().item() == pytest.approx(0.5, abs=0.03)
