"""`tkd-hf prune`: from a teacher or a student to a smaller student that loads, and one clear line for what is wrong."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from tkd_hf import student_from_teacher
from tkd_hf.pruning import sparsity_report

from ..conftest import FAST, TEXTS, build_teacher, read_json
from ..training import logits_of_texts, student_of
from .recipes import run_until_killed, write_recipe


@pytest.fixture
def prune(run, teacher_folder, sst2_dir, tmp_path):
    """Runs `tkd-hf prune` on the teacher; gives the exit code, standard output and error."""

    def call(*words, model=teacher_folder):
        data = ["--task", "sst2", "--data-dir", sst2_dir]
        return run("prune", model, *data, "--output-dir", tmp_path / "pruned", *words, *FAST.split())

    return call


@pytest.mark.parametrize("importance", ["taylor", "magnitude", "activation"])
def test_a_teacher_becomes_a_pruned_student(prune, tmp_path, teacher_folder, importance):
    code, out, err = prune("--target-params", 0.7, "--importance", importance, "--json", tmp_path / "p.json")
    assert code == 0, err
    assert f"pruning {teacher_folder} on sst2 into" in err
    assert "speedup" in out
    record = read_json(tmp_path / "p.json")
    assert record == read_json(tmp_path / "pruned" / "tkd_run.json")
    student, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned", output_loading_info=True)
    assert not info["missing_keys"]
    assert student.config.model_type == "tkd"
    assert record["metrics"]["parameters"] == student.num_parameters() <= 0.7 * record["details"]["from"]["parameters"]
    assert record["details"]["to"]["megabytes"] == pytest.approx(student.num_parameters() * 4e-6, abs=1e-3)
    assert {"accuracy", "loss", "speedup"} <= set(record["metrics"])
    removed = record["details"]["removed"]
    assert set(removed) == {"heads", "neurons", "layers", "hidden"}
    assert removed["neurons"] or removed["layers"]


def test_pruned_without_training(prune, tmp_path, teacher):
    """The weights that are left are the teacher's own."""
    words = ["--target-params", 0.8, "--units", "neurons", "--no-train"]
    code, _, err = prune(*words)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["arguments"]["train"] is False
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert student.config.num_hidden_layers == 4
    parent = student_from_teacher(teacher)
    for layer, (ours, theirs) in enumerate(zip(student.tkd.layers, parent.tkd.layers, strict=True)):
        kept = [n for n in range(32) if n not in numbers(record["details"]["removed"]["neurons"].get(str(layer), ""))]
        assert torch.equal(ours.feed_forward.intermediate.weight, theirs.feed_forward.intermediate.weight[kept])
        assert torch.equal(ours.attention.query.weight, theirs.attention.query.weight)
    assert prune(*words, "--resume")[0] == 0  # is already finished
    code, _, err = prune("--target-params", 0.7, "--units", "neurons", "--no-train", "--resume")
    assert (code, "target_params was 0.8, now 0.7" in err) == (2, True)


def numbers(text: str) -> set[int]:
    ends = [run.split("-") for run in text.split(",") if run]
    return {number for run in ends for number in range(int(run[0]), int(run[-1]) + 1)}


def test_a_student_learns_from_its_teacher_while_it_is_pruned(prune, run, tmp_path, teacher, teacher_folder, sst2_dir):
    student_of(teacher).save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path / "student")
    words = ["--teacher", teacher_folder, "--target-size", "0.015MB", "--units", "heads,neurons,hidden"]
    code, _, err = prune(*words, "--schedule", "linear", model=tmp_path / "student")
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["inputs"]["teacher"] == str(teacher_folder)
    assert record["metrics"]["megabytes"] <= 0.015
    assert record["metrics"]["loss_logits"] > 0
    again = run("prune", tmp_path / "pruned", "--task", "sst2", "--data-dir", sst2_dir, "--target-params", 0.97,
                "--units", "hidden,neurons", "--output-dir", tmp_path / "twice", *FAST.split())  # fmt: skip
    assert again[0] == 0, again[2]
    assert read_json(tmp_path / "twice" / "tkd_run.json")["details"]["from"] == record["details"]["to"]


def test_a_speedup(prune, tmp_path, monkeypatch):
    """By a clock for which a layer takes 1 ms, a head 0.5 and a neuron 0.1: models so small drown in noise."""

    def milliseconds(model, shapes, tokenizer, texts, max_length):
        assert texts[0] == ("good film",)

        def time(shape):
            depth = range(shape.num_hidden_layers)
            return 1 + sum(1 + 0.5 * shape.heads_of(i) + 0.1 * shape.intermediate_size_of(i) for i in depth)

        return [time(shape) for shape in shapes]

    for module in ("pruning.targets", "stages.prune"):
        monkeypatch.setattr(f"tkd_hf.{module}.shape_latencies", milliseconds)
    code, _, err = prune("--target-speedup", 1.5)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert 1.5 <= record["metrics"]["speedup"] < 1.65
    assert record["arguments"]["target_speedup"] == 1.5


@pytest.fixture
def few_words(sst2_dir):
    """Training texts that leave out some of the vocabulary, and one at evaluation that does not."""
    for split, rows in {"train": 3, "validation": 4}.items():
        texts = {"sentence": TEXTS[:rows], "label": [1, 0, 1, 0][:rows]}
        Dataset.from_dict(texts).to_parquet(sst2_dir / "sst2" / f"{split}.parquet")


@pytest.mark.usefixtures("few_words")
def test_the_vocabulary_alone_needs_no_training(prune, tmp_path, teacher, tokenizer):
    code, _, err = prune("--vocabulary")
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["arguments"]["train"] is False
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    smaller = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    cut = record["details"]["vocabulary"]
    assert student.config.vocab_size == len(smaller) == cut["tokens_after"] < cut["tokens_before"]
    assert (cut["held_out"]["texts"], cut["held_out"]["changed"]) == (4, 0.25)
    removed = (tmp_path / "pruned" / "removed_tokens.txt").read_text().split("\n")[:-1]
    assert sorted([*removed, *smaller.get_vocab()]) == sorted(tokenizer.get_vocab())
    torch.testing.assert_close(logits_of_texts(student, smaller)[:3], logits_of_texts(teacher, tokenizer)[:3])


@pytest.mark.usefixtures("few_words")
def test_a_target_after_the_vocabulary_is_of_the_whole_model(prune, tmp_path, teacher):
    code, _, err = prune("--vocabulary", "--target-params", 0.7)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    whole = student_from_teacher(teacher).num_parameters()
    assert record["details"]["from"]["parameters"] == whole
    assert 0.6 * whole < student.num_parameters() <= 0.7 * whole
    assert record["details"]["removed"]["neurons"] or record["details"]["removed"]["layers"]
    assert student.config.vocab_size == record["details"]["vocabulary"]["tokens_after"]


@pytest.mark.parametrize(
    ("words", "share"), [(["--sparsity", 0.75, "--scope", "layer"], 0.75), (["--pattern", "2:4", "--no-train"], 0.5)]
)
def test_single_weights_become_zero(prune, tmp_path, words, share):
    code, _, err = prune(*words)
    assert code == 0, err
    details = read_json(tmp_path / "pruned" / "tkd_run.json")["details"]
    assert details["from"] == details["to"]
    assert details["sparsity"]["megabytes_compressed"] < details["sparsity"]["megabytes"]
    assert set(details["sparsity"]["layers"].values()) == {share}
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert sparsity_report(student).share == share


def test_nncf_chooses_the_weights(prune, tmp_path):
    pytest.importorskip("nncf")
    code, _, err = prune("--sparsity", 0.5, "--nncf", "--no-train")
    assert code == 0, err
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert sparsity_report(student).share == pytest.approx(0.5, abs=0.02)


def test_the_gate(prune, tmp_path, tokenizer):
    """What was lost is said, and the student is left."""
    build_teacher(seed=4).save_pretrained(tmp_path / "m")  # right in 5 of 8
    tokenizer.save_pretrained(tmp_path / "m")
    words = ["--target-params", 0.6, "--importance", "magnitude", "--no-train"]
    assert prune(*words, "--max-drop", 1, model=tmp_path / "m")[0] == 0
    code, out, err = prune(*words, "--overwrite", "--max-drop", 0, model=tmp_path / "m")
    student = read_json(tmp_path / "pruned" / "tkd_run.json")["metrics"]["accuracy"]
    assert student < 0.625
    assert code == 1
    assert f"the gate was missed by {0.625 - student:.4f}" in err
    assert "speedup" in out


def test_classes_in_the_order_of_the_data(prune, run, tmp_path, tokenizer):
    """The teacher names them the other way round."""
    teacher = build_teacher(("positive", "negative"))
    teacher.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    code, _, err = prune("--target-params", 0.95, "--no-train", "--units", "neurons", model=tmp_path / "other")
    assert code == 0, err
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert student.config.id2label == {0: "negative", 1: "positive"}
    agreed = logits_of_texts(student, tokenizer).argmax(-1) == logits_of_texts(teacher, tokenizer).flip(-1).argmax(-1)
    assert agreed.float().mean() >= 0.75


def test_a_tagger(run, tmp_path, tagger, tokenizer):
    import json

    tagger.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    rows = [
        {"text": text.split(), "label": [["B-X", "I-X", "O"][len(word) % 3] for word in text.split()]} for text in TEXTS
    ]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--target-params", 0.7, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", tmp_path / "tagger", "--dataset", tmp_path / "data", *words)
    assert code == 0, err
    student = AutoModelForTokenClassification.from_pretrained(tmp_path / "pruned")
    assert student.num_parameters() <= 0.7 * student_from_teacher(tagger).num_parameters()


def test_texts_without_labels(run, tmp_path, teacher_folder):
    """A student that is its own teacher has nothing for Taylor to see, but its activations."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    data = ["--dataset", tmp_path / "texts.txt", "--train-split", "train", "--eval-split", "train"]
    words = [*data, "--target-params", 0.7, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", teacher_folder, *words)
    assert (code, "have no gradient where the student starts as its own teacher" in err) == (2, True)
    assert not (tmp_path / "pruned").exists()
    code, _, err = run("prune", teacher_folder, *words, "--importance", "activation")
    assert code == 0, err
    assert "agreement" in read_json(tmp_path / "pruned" / "tkd_run.json")["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no target given; give one of target_params, target_size, target_speedup"),
        (["--target-params", 0.5, "--target-size", "1MB"], "target_params and target_size given; give one of"),
        (["--target-params", 0.5, "--sparsity", 0.5], "target_params and sparsity given; give one of"),
        (["--vocabulary", "--scope", "layer"], "nncf=False and scope='layer' are about single weights"),
        (["--sparsity", 1.5], "share=1.5 of the weights cannot be zero"),
        (["--pattern", "two of four"], "pattern='two of four' is not of the form N:M"),
        (
            ["--vocabulary", "--sparsity", 0.5, "--objectives", '{"hidden": 1}'],
            "hidden compare tokens with the teacher's, and a student with a vocabulary of its own has others",
        ),
        (["--target-size", "small"], "--target-size 'small' is not a size; write it as 10MB"),
        (
            ["--target-params", 0.05],
            "the target 0.05 of the parameters cannot be met by removing heads, neurons, layers",
        ),
        (["--target-speedup", 1000], "the target 1000 times as fast cannot be met"),
        (["--target-speedup", 0.5], "a speedup of 0.5 is none"),
        (["--target-params", 0.5, "--importance", "luck"], "unknown importance 'luck'"),
        (["--target-params", 0.5, "--schedule", "quartic"], "unknown schedule 'quartic'"),
        (["--target-params", 0.5, "--units", "words"], "units=words; choose among heads, neurons, layers, hidden"),
        (["--target-params", 0.7, "--schedule", "cubic", "--no-train"], "--schedule cubic needs training to prune in"),
        (
            "--target-params 0.7 --load-best-model-at-end true --eval-strategy epoch --save-strategy epoch".split(),
            "load_best_model_at_end=True would bring back weights",
        ),
    ],
)
def test_mistakes_are_one_line_and_cost_nothing(run, teacher_folder, sst2_dir, tmp_path, words, message):
    common = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "pruned"]
    code, out, err = run("prune", teacher_folder, *common, *FAST.split()[:-2], *words)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "pruned").exists()


QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}


def test_a_stage_of_a_recipe(run, tmp_path, teacher_folder, sst2_dir):
    """What comes after works on the pruned student, also where the teacher itself is pruned."""
    quick = {**QUICK, "save_strategy": "no"}
    pruning = {"prune": {**quick, "target_params": 0.8, "units": ["neurons", "hidden"], "schedule": "one-shot"}}
    stages = [pruning, {"distill": quick}, {"prune": {**quick, "target_params": 0.9}}, {"evaluate": {}}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    path = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(tmp_path / "out"))
    code, _, err = run("run", path, "--json", tmp_path / "run.json")
    assert code == 0, err
    first, distilled, second, evaluated = read_json(tmp_path / "run.json")["stages"]
    assert first["inputs"]["model"] == first["inputs"]["teacher"] == str(teacher_folder)
    assert distilled["arguments"]["student"] == str(tmp_path / "out" / "prune")
    assert second["inputs"]["model"] == str(tmp_path / "out" / "distill")
    assert second["inputs"]["teacher"] == str(teacher_folder)
    assert second["details"]["from"] == first["details"]["to"]
    assert sum(evaluated["models"][1]["parameters"].values()) == second["metrics"]["parameters"]


@pytest.mark.slow
def test_a_killed_recipe_goes_on_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir):
    """Distilled and pruned from one recipe, killed between two prunings."""
    pruning = {**QUICK, "num_train_epochs": 4, "target_params": 0.7, "save_strategy": "steps", "save_steps": 1}
    stages = [{"distill": {**QUICK, "layers": 3, "save_strategy": "no"}}, {"prune": pruning}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("run", recipe, "--output-dir", whole)[0] == 0
    words = ["run", str(recipe), "--output-dir", str(parts)]
    run_until_killed(words, "checkpoint-5", home=tmp_path / "home")
    code, _, err = run(*words)
    assert code == 0, err
    records = [read_json(folder / "prune" / "tkd_run.json") for folder in (whole, parts)]
    assert records[0]["details"] == records[1]["details"]
    one, other = (
        AutoModelForSequenceClassification.from_pretrained(folder / "prune").state_dict() for folder in (whole, parts)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
