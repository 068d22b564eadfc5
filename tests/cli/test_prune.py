"""`tkd-hf prune`: every target gives a smaller student that loads, and every mistake a one-line message."""

import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from tkd_hf import student_from_teacher
from tkd_hf.pruning.unstructured import sparsity_report

from ..factories import (
    FAST,
    TEXTS,
    build_teacher,
    logits_of_texts,
    read_json,
    run_until_killed,
    student_of,
    write_recipe,
)


@pytest.fixture
def prune(run, teacher_folder, sst2_dir, tmp_path):
    """Run `tkd-hf prune` on the teacher; return the exit code, standard output and standard error."""

    def run_prune(*options, model=teacher_folder):
        data = ["--task", "sst2", "--data-dir", sst2_dir]
        return run("prune", model, *data, "--output-dir", tmp_path / "pruned", *options, *FAST.split())

    return run_prune


@pytest.mark.parametrize("importance", ["taylor", "magnitude", "activation"])
def test_teacher_is_pruned_to_a_student_of_the_target_size(prune, tmp_path, teacher_folder, importance):
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


def test_weights_are_the_teachers_own_without_training(prune, tmp_path, teacher):
    options = ["--target-params", 0.8, "--units", "neurons", "--no-train"]
    code, _, err = prune(*options)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["arguments"]["train"] is False
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert student.config.num_hidden_layers == 4
    unpruned = student_from_teacher(teacher)
    for index, (layer, unpruned_layer) in enumerate(zip(student.tkd.layers, unpruned.tkd.layers, strict=True)):
        removed = parse_ranges(record["details"]["removed"]["neurons"].get(str(index), ""))
        neurons = [neuron for neuron in range(32) if neuron not in removed]
        expected = unpruned_layer.feed_forward.intermediate.weight[neurons]
        assert torch.equal(layer.feed_forward.intermediate.weight, expected)
        assert torch.equal(layer.attention.query.weight, unpruned_layer.attention.query.weight)
    assert prune(*options, "--resume")[0] == 0  # is already finished
    code, _, err = prune("--target-params", 0.7, "--units", "neurons", "--no-train", "--resume")
    assert (code, "target_params was 0.8, now 0.7" in err) == (2, True)


def parse_ranges(text: str) -> set[int]:
    ranges = [part.split("-") for part in text.split(",") if part]
    return {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}


def test_student_trains_on_its_teacher_while_pruned_and_can_be_pruned_again(
    prune, run, tmp_path, teacher, teacher_folder, sst2_dir
):
    student_of(teacher).save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path / "student")
    options = ["--teacher", teacher_folder, "--target-size", "0.015MB", "--units", "heads,neurons,hidden"]
    code, _, err = prune(*options, "--schedule", "linear", model=tmp_path / "student")
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["inputs"]["teacher"] == str(teacher_folder)
    assert record["metrics"]["megabytes"] <= 0.015
    assert record["metrics"]["loss_logits"] > 0
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    options = ["--target-params", 0.97, "--units", "hidden,neurons", "--output-dir", tmp_path / "twice"]
    code, _, err = run("prune", tmp_path / "pruned", *data, *options, *FAST.split())
    assert code == 0, err
    assert read_json(tmp_path / "twice" / "tkd_run.json")["details"]["from"] == record["details"]["to"]


def test_speedup_target_is_reached(prune, tmp_path, monkeypatch):
    """Latencies are computed: 1 ms per layer, 0.5 per head, 0.1 per neuron. Models this small are too fast to time."""

    def latencies(model, shapes, tokenizer, texts, max_length):
        assert texts[0] == ("good film",)

        def latency(shape):
            layers = range(shape.num_hidden_layers)
            return 1 + sum(1 + 0.5 * shape.heads_of(i) + 0.1 * shape.intermediate_size_of(i) for i in layers)

        return [latency(shape) for shape in shapes]

    for module in ("pruning.targets", "commands.prune"):
        monkeypatch.setattr(f"tkd_hf.{module}.shape_latencies", latencies)
    code, _, err = prune("--target-speedup", 1.5)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert 1.5 <= record["metrics"]["speedup"] < 1.65
    assert record["arguments"]["target_speedup"] == 1.5


@pytest.fixture
def few_words(sst2_dir):
    """Write training texts that use a part of the vocabulary, and one more evaluation text that uses other words."""
    for split, rows in {"train": 3, "validation": 4}.items():
        texts = {"sentence": TEXTS[:rows], "label": [1, 0, 1, 0][:rows]}
        Dataset.from_dict(texts).to_parquet(sst2_dir / "sst2" / f"{split}.parquet")


@pytest.mark.usefixtures("few_words")
def test_vocabulary_alone_is_pruned_without_training(prune, tmp_path, teacher, tokenizer):
    code, _, err = prune("--vocabulary")
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    assert record["arguments"]["train"] is False
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    smaller = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    report = record["details"]["vocabulary"]
    assert student.config.vocab_size == len(smaller) == report["tokens_after"] < report["tokens_before"]
    assert (report["held_out"]["texts"], report["held_out"]["changed"]) == (4, 0.25)
    removed = (tmp_path / "pruned" / "removed_tokens.txt").read_text().split("\n")[:-1]
    assert sorted([*removed, *smaller.get_vocab()]) == sorted(tokenizer.get_vocab())
    torch.testing.assert_close(logits_of_texts(student, smaller)[:3], logits_of_texts(teacher, tokenizer)[:3])


@pytest.mark.usefixtures("few_words")
def test_target_given_with_vocabulary_refers_to_the_model_with_all_tokens(prune, tmp_path, teacher):
    code, _, err = prune("--vocabulary", "--target-params", 0.7)
    assert code == 0, err
    record = read_json(tmp_path / "pruned" / "tkd_run.json")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    unpruned = student_from_teacher(teacher).num_parameters()
    assert record["details"]["from"]["parameters"] == unpruned
    assert 0.6 * unpruned < student.num_parameters() <= 0.7 * unpruned
    assert record["details"]["removed"]["neurons"] or record["details"]["removed"]["layers"]
    assert student.config.vocab_size == record["details"]["vocabulary"]["tokens_after"]


@pytest.mark.parametrize(
    ("options", "share"), [(["--sparsity", 0.75, "--scope", "layer"], 0.75), (["--pattern", "2:4", "--no-train"], 0.5)]
)
def test_sparsity_and_pattern_set_single_weights_to_zero(prune, tmp_path, options, share):
    code, _, err = prune(*options)
    assert code == 0, err
    details = read_json(tmp_path / "pruned" / "tkd_run.json")["details"]
    assert details["from"] == details["to"]
    assert details["sparsity"]["megabytes_compressed"] < details["sparsity"]["megabytes"]
    assert set(details["sparsity"]["layers"].values()) == {share}
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert sparsity_report(student).share == share


def test_nncf_option_reaches_the_sparsity(prune, tmp_path):
    pytest.importorskip("nncf")
    code, _, err = prune("--sparsity", 0.5, "--nncf", "--no-train")
    assert code == 0, err
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert sparsity_report(student).share == pytest.approx(0.5, abs=0.02)


def test_max_drop_fails_the_command_and_keeps_the_student(prune, tmp_path, tokenizer):
    build_teacher(seed=4).save_pretrained(tmp_path / "m")  # predicts 5 of 8 labels correctly
    tokenizer.save_pretrained(tmp_path / "m")
    options = ["--target-params", 0.6, "--importance", "magnitude", "--no-train"]
    assert prune(*options, "--max-drop", 1, model=tmp_path / "m")[0] == 0
    code, out, err = prune(*options, "--overwrite", "--max-drop", 0, model=tmp_path / "m")
    student = read_json(tmp_path / "pruned" / "tkd_run.json")["metrics"]["accuracy"]
    assert student < 0.625
    assert code == 1
    assert f"the gate was missed by {0.625 - student:.4f}" in err
    assert "speedup" in out


def test_labels_of_the_student_are_in_the_order_of_the_data(prune, run, tmp_path, tokenizer):
    """The teacher has its labels in the opposite order."""
    teacher = build_teacher(("positive", "negative"))
    teacher.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    code, _, err = prune("--target-params", 0.95, "--no-train", "--units", "neurons", model=tmp_path / "other")
    assert code == 0, err
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert student.config.id2label == {0: "negative", 1: "positive"}
    agreement = logits_of_texts(student, tokenizer).argmax(-1) == logits_of_texts(teacher, tokenizer).flip(-1).argmax(
        -1
    )
    assert agreement.float().mean() >= 0.75


def test_token_classifier_can_be_pruned(run, tmp_path, tagger, tokenizer):
    tagger.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    rows = [
        {"text": text.split(), "label": [["B-X", "I-X", "O"][len(word) % 3] for word in text.split()]} for text in TEXTS
    ]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--target-params", 0.7, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", tmp_path / "tagger", "--dataset", tmp_path / "data", *options)
    assert code == 0, err
    student = AutoModelForTokenClassification.from_pretrained(tmp_path / "pruned")
    assert student.num_parameters() <= 0.7 * student_from_teacher(tagger).num_parameters()


def test_unlabelled_texts_without_another_teacher_need_activation_importance(run, tmp_path, teacher_folder):
    """Without labels, a student that is its own teacher has no gradient that taylor could use."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    data = ["--dataset", tmp_path / "texts.txt", "--train-split", "train", "--eval-split", "train"]
    options = [*data, "--target-params", 0.7, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", teacher_folder, *options)
    assert (code, "have no gradient if the student starts as its own teacher" in err) == (2, True)
    assert "choose importance=activation" in err
    assert not (tmp_path / "pruned").exists()
    code, _, err = run("prune", teacher_folder, *options, "--importance", "activation")
    assert code == 0, err
    assert "agreement" in read_json(tmp_path / "pruned" / "tkd_run.json")["metrics"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no target given; give one of target_params, target_size, target_speedup"),
        (["--target-params", 0.5, "--target-size", "1MB"], "target_params and target_size given; give one of"),
        (["--target-params", 0.5, "--sparsity", 0.5], "target_params and sparsity given; give one of"),
        (["--vocabulary", "--scope", "layer"], "nncf=False and scope='layer' apply to single weights only"),
        (["--sparsity", 1.5], "share=1.5 of the weights cannot become zero"),
        (["--pattern", "two of four"], "pattern='two of four' is not of the form N:M"),
        (
            ["--vocabulary", "--sparsity", 0.5, "--objectives", '{"hidden": 1}'],
            "the objectives hidden compare the student's tokens with the teacher's, and a pruned vocabulary splits",
        ),
        (["--target-size", "small"], "--target-size 'small' is not a size; write it as 10MB"),
        (
            ["--target-params", 0.05],
            "the target 0.05 of the parameters cannot be met by removing heads, neurons, layers",
        ),
        (["--target-speedup", 1000], "the target 1000 times as fast cannot be met"),
        (["--target-speedup", 0.5], "a speedup of 0.5 makes nothing faster; choose one above 1"),
        (["--target-params", 0.5, "--importance", "luck"], "unknown importance 'luck'"),
        (["--target-params", 0.5, "--schedule", "quartic"], "unknown schedule 'quartic'"),
        (["--target-params", 0.5, "--units", "words"], "unknown units 'words'; choose among heads, neurons, layers"),
        (
            ["--target-params", 0.7, "--schedule", "cubic", "--no-train"],
            "--schedule cubic prunes during training, which --no-train turns off",
        ),
        (
            "--target-params 0.7 --load-best-model-at-end true --eval-strategy epoch --save-strategy epoch".split(),
            "load_best_model_at_end=True could restore weights",
        ),
    ],
)
def test_mistakes_give_one_line_and_leave_no_folder(run, teacher_folder, sst2_dir, tmp_path, options, message):
    common = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "pruned"]
    code, out, err = run("prune", teacher_folder, *common, *FAST.split()[:-2], *options)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "pruned").exists()


QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}


def test_recipe_stages_after_pruning_use_the_pruned_student(run, tmp_path, teacher_folder, sst2_dir):
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
def test_recipe_killed_between_prunings_resumes_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir):
    pruning = {**QUICK, "num_train_epochs": 4, "target_params": 0.7, "save_strategy": "steps", "save_steps": 1}
    stages = [{"distill": {**QUICK, "layers": 3, "save_strategy": "no"}}, {"prune": pruning}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    assert run("run", recipe, "--output-dir", uninterrupted)[0] == 0
    command = ["run", str(recipe), "--output-dir", str(resumed)]
    run_until_killed(command, "checkpoint-5", home=tmp_path / "home")
    code, _, err = run(*command)
    assert code == 0, err
    folders = [folder / "prune" for folder in (uninterrupted, resumed)]
    records = [read_json(folder / "tkd_run.json") for folder in folders]
    assert records[0]["details"] == records[1]["details"]
    expected, weights = (AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in folders)
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
