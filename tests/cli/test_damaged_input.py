"""Damaged models and unusual data: a command gives a result or one clear line, never a traceback or a wrong result."""

import gzip
import json
import math
import shutil

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file

from ..factories import FAST, LABELS, TEXTS, read_json


@pytest.fixture
def model(teacher_folder, tmp_path):
    """Return a copy of the teacher, to be damaged."""
    return shutil.copytree(teacher_folder, tmp_path / "damaged")


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def text_weights(folder):
    (folder / "model.safetensors").write_text("not weights")


def nan_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def missing_weights(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if "classifier" not in n}, folder / "model.safetensors", {"format": "pt"}
    )


def config(**fields):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def no_json(folder):
    (folder / "config.json").write_text('{"model_type": "bert"')


def empty_config(folder):
    (folder / "config.json").write_text("{}")


def list_config(folder):
    (folder / "config.json").write_text("[1, 2]")


def no_tokenizer(folder):
    for path in folder.glob("token*"):
        path.unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def larger_tokenizer(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {"film": 500}
    path.write_text(json.dumps(content))


SHAPES = "the shapes of its weights differ from those in its config.json"
DAMAGES = {
    "truncated weights": (truncate, "cannot be loaded: Error while deserializing header"),
    "cut header": (cut_header, "cannot be loaded: Error while deserializing header: header too small"),
    "huge header": (huge_header, "cannot be loaded: Error while deserializing header: header too large"),
    "text weights": (text_weights, "cannot be loaded: Error while deserializing header"),
    "nan weights": (nan_weights, "predicts NaN or infinity for 8 of 8 examples"),
    "missing weights": (
        missing_weights,
        "not a trained classifier (classifier.bias, classifier.weight are missing)",
    ),
    "no json": (no_json, "config.json"),
    "empty config": (empty_config, "Should have a `model_type` key in its config.json"),
    "list config": (list_config, "the configuration in"),
    "no tokenizer": (no_tokenizer, "has no vocabulary; save the model's own tokenizer next to it"),
    "broken tokenizer": (broken_tokenizer, "the tokenizer in"),
    "larger tokenizer": (larger_tokenizer, "has a token with id 500, but the model has only 15 word embeddings"),
    "negative width": (config(hidden_size=-4), "negative dimension -4"),
    "enormous width": (config(hidden_size=10**9), SHAPES),
    "enormous vocabulary": (config(vocab_size=10**12), SHAPES),
    "width as text": (config(hidden_size="wide"), "Field 'hidden_size' expected int, got str (value: 'wide')"),
    "heads do not divide": (
        config(num_attention_heads=3),
        "(16) is not a multiple of the number of attention heads (3)",
    ),
    "no layers": (config(num_hidden_layers=0), "holds weights of layers that its configuration does not have"),
    "fewer layers": (config(num_hidden_layers=3), "holds weights of layers that its configuration does not have"),
    "more layers": (config(num_hidden_layers=9), "more are missing); correct its config.json, or save the model again"),
    "unknown type": (config(model_type="tardigrade"), "tardigrade"),
    "labels contradict": (
        config(id2label={"0": "negative", "1": "positive"}, label2id={"negative": 1, "positive": 0}),
        "contradict each other",
    ),
    "labels doubled": (config(id2label={"0": "same", "1": "same"}), "['same', 'same'], are not those of the data"),
    "three labels": (config(id2label={"0": "a", "1": "b", "2": "c"}), SHAPES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(run, model, sst2_dir, damage):
    apply_damage, message = DAMAGES[damage]
    apply_damage(model)
    code, out, err = run("evaluate", model, "--task", "sst2", "--data-dir", sst2_dir)
    assert (code, out) == (2, "")
    assert message in last_line(err)


COMMANDS = {
    "finetune": "{model} {data} --output-dir {out} {fast}",
    "augment": "{data} --neighbours {model} --output-dir {out}",
    "pretrain": "--dataset {corpus} --teacher {model} --output-dir {out} --max-steps 1 --max-length 8 {fast}",
    "label": "{model} {data}",
    "distill": "{model} {data} --live --output-dir {out} {fast}",
    "distill --student": "{teacher} {data} --student {model} --output-dir {out} {fast}",
    "prune": "{model} {data} --target-params 0.8 --output-dir {out} {fast}",
    "quantize": "{model} --backend bitsandbytes --output-dir {out}",
    "evaluate": "{model} {data}",
    "benchmark": "{model} --lengths 8",
    "report": "{model} {data} --teacher {teacher} --output-dir {out} --lengths 8",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_weights_that_do_not_fit(run, model, teacher_folder, sst2_dir, tmp_path, command):
    """A check of the loader is met by every command; a name that a wrapper adds stands for all of them."""
    weights = load_file(model / "model.safetensors")
    renamed = {f"_orig_mod.{name}": weight for name, weight in weights.items()}
    save_file(renamed, model / "model.safetensors", {"format": "pt"})
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS * 10))
    options = COMMANDS[command].format(
        model=model,
        teacher=teacher_folder,
        data=f"--task sst2 --data-dir {sst2_dir}",
        corpus=tmp_path / "corpus.txt",
        out=tmp_path / "out",
        fast=FAST,
    )
    code, _, err = run(command.split()[0], *options.split())
    assert (code, "torch.compile adds _orig_mod; save the model inside" in last_line(err)) == (2, True), err


def rows(texts, labels=None):
    names = [("negative", "positive")[code] for code in (LABELS * len(texts))[: len(texts)]]
    return {"text": texts, "label": labels or names}


UNUSUAL_TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "🙂" * 50,
    "שלום עולם",
    "‮gniht",
    "film " * 20_000,
    "\x1b[31m",
    "é́́́́",
    "\ufeff",
    "\ud7ff",
    "a\nb\tc\r\n",
]

# Data sets with the error message, or `None` if the command accepts them.
DATA = {
    "unusual texts": (rows(UNUSUAL_TEXTS), None),
    "one example": (rows(["good film"]), None),
    "a class absent": (rows(TEXTS, ["positive"] * len(TEXTS)), None),
    "hidden labels": (rows(TEXTS, [-1] * len(TEXTS)), None),  # as in GLUE's test splits
    "labels as floats": (
        rows(TEXTS, [0.5] * len(TEXTS)),
        "predicts one of 2 classes, but the labels of the data are",
    ),
    "labels out of range": (rows(TEXTS, [7] * len(TEXTS)), "['negative', 'positive'], are not those of the student"),
    "numbers as texts": (rows([1, 2, 3]), "column 'text' of rows holds Value('int64'), not texts"),
    "missing texts": (
        rows(["good", None, "bad"]),
        "column 'text' of rows has empty texts in 1 of 3 rows (row 2, counted",
    ),
    "missing labels": (rows(TEXTS, [None, *["positive"] * 7]), "label column 'label' has empty entries"),
    "lists of lists": (rows([[["a"]], [["b"]]]), "neither texts nor lists of words"),
}


@pytest.mark.parametrize("name", DATA)
def test_unusual_data_are_trained_on_or_refused_in_one_line(run, teacher_folder, tmp_path, name):
    content, message = DATA[name]
    (tmp_path / "rows").mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict(content).to_parquet(tmp_path / "rows" / f"{split}.parquet")
    args = ["--dataset", tmp_path / "rows", "--layers", 2, "--output-dir", tmp_path / "student", *FAST.split()]
    code, _, err = run("distill", teacher_folder, *args)
    if message:
        assert (code, message in last_line(err)) == (2, True), err
    else:
        assert code == 0, err
        assert math.isfinite(read_json(tmp_path / "student" / "tkd_run.json")["metrics"]["loss"])


FILES = {
    "empty.csv": (b"", "empty.csv is empty; its first line must name the columns"),
    "header.csv": (b"text,label\n", "the data of header.csv has no examples"),
    "ragged.csv": (b"text,label\ngood,1,3,4\nbad\n", "the row at line 2 has 4 cells, but the header has 2"),
    "quotes.csv": (b'text,label\n"good,1\nbad,0\n', None),  # the quotation mark is a character of the text
    "pairs.csv": (b'text,label\n"good"x,1\n"bad, b",0\n', "the quotation marks are not paired"),
    "latin.csv": ("text,label\nbonté,1\n".encode("latin-1"), "no UTF-8 text (invalid continuation byte at byte 15)"),
    "nul.csv": (b"text,label\ngo\0od,positive\n", None),
    "twice.csv": (b"text,label,text\ngood,1,bad\n", "several columns 'text'; give each its own name"),
    "bomb.csv": (gzip.compress(b"text,label\n" + b"a" * 10**7), "is compressed (gzip), although its name ends in .csv"),
    "bomb.json": (b"PK\x03\x04" + bytes(100), "is compressed (zip), although its name ends in .json"),
    "endless.csv": (
        b"text,label\n" + b"a " * 10**6 + b",0\nb,1\n",
        "has a text of 2000000 characters; cut it to 1000000",
    ),
    "long.csv": (b"text,label\n" + b"a" * 10**6 + b",0\n" + b"b,1\n" * 3, None),
    "columns.csv": (b",".join(b"c%d" % i for i in range(200_000)) + b"\n", "is longer than 1048576 characters"),
    "utf16.csv": ("text,label\ngood,1\n".encode("utf-16"), "utf16.csv is no UTF-8 text (invalid start byte at byte 0)"),
    "broken.jsonl": (b'{"text": "good", "label": 1}\n{"text": \n', "JSON parse error"),
    "mixed.jsonl": (b'{"text": "good", "label": 1}\n{"text": 3, "label": "x"}\n', "label column 'label'"),
    "nested.json": (b"[" * 5000 + b"]" * 5000, "cannot be read"),
    "image.parquet": (b"\x89PNG\r\n\x1a\n" * 10, "Parquet magic bytes not found"),
    "pickle.pkl": (b"\x80\x04\x95", "has the ending '.pkl'; the readable ones are"),
    "latin.txt": ("bonté\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
}


@pytest.mark.parametrize("name", FILES)
def test_unusual_files_are_read_or_refused_in_one_line(run, teacher_folder, tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    data = ["--dataset", tmp_path / name, "--train-split", "train", "--eval-split", "train"]
    code, out, err = run("evaluate", teacher_folder, *data)
    if message:
        assert (code, out) == (2, "")
        assert message in last_line(err)
    else:
        assert code == 0, err


def last_line(err: str) -> str:
    return err.strip().splitlines()[-1]
