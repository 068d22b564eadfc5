"""The benchmarks of speed and the studies run in their quick size."""

import importlib.util

import pytest
import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

import labelling_speed
import operations
import out_of_domain
import pruning
import quantization
import training_speed
from clock import PHASES, Clock, matmul_peak, useful_flops
from tests.factories import build_teacher, read_json
from tkd_hf import student_from_teacher


def test_useful_operations_are_those_of_a_batch_without_padding():
    model = student_from_teacher(build_teacher(attn_implementation="eager"), num_hidden_layers=2)
    model.set_attn_implementation("eager")
    classifier = 2 * 16 * 2  # too few operations to be counted
    for first_token_only in (True, False):
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.tensor([[1, 5, 6, 2]]))
        assert useful_flops(model.config, [4], 1, first_token_only) == counter.get_total_flops() - classifier
        assert useful_flops(model.config, [4, 2], 3, first_token_only) == 3 * (
            useful_flops(model.config, [4], 1, first_token_only) + useful_flops(model.config, [2], 1, first_token_only)
        )
        model.tkd.compute_all_tokens = True
    assert matmul_peak(bf16=False, patience=0.01) > 0


def test_phases_add_up_to_the_time_of_the_steps(teacher):
    student, clock = student_from_teacher(teacher, num_hidden_layers=1), Clock(2)
    clock.watch(student, teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(clock.total_steps):
        with torch.no_grad():
            teacher_logits = teacher(input_ids=torch.tensor([[1, 5, 2]])).logits
        (student(input_ids=torch.tensor([[1, 5, 2]])).logits - teacher_logits).square().sum().backward()
        optimizer.step()
    assert set(clock.phases) == set(PHASES)
    assert sum(clock.phases.values()) == pytest.approx(clock.seconds, rel=0.05)


def test_ratios_compare_runs_of_the_same_round():
    def run(contender, seed, rate):
        fields = {"phases": dict.fromkeys(PHASES, 0), "peak_megabytes": 1.0, "accuracy": 0.9, "flops_per_second": 2.0}
        peak = {"peak_flops_per_second": 8.0 - 4 * seed}
        return {"contender": contender, "seed": seed, "examples_per_second": rate} | fields | peak

    runs = [run("ours", 0, 60), run("plain Trainer", 0, 10), run("TextBrewer", 0, 20)]
    runs += [run("ours", 1, 30), run("plain Trainer", 1, 5), run("TextBrewer", 1, 3)]
    options = training_speed.parse(training_speed.training_parser(""), ["--teacher", "t", "--precision", "fp32"])
    options.rounds = 2
    rows = {name: training_speed.row_of(name, runs, options) for name in ("ours", "plain Trainer")}
    assert rows["ours"]["of_fastest_peer"] == [3, 6]
    assert rows["plain Trainer"]["examples_per_second"] == [10, 5]
    assert {row["utilisation"] for row in rows.values()} == {0.25}  # 2 of 8, the larger peak of the two rounds


@pytest.mark.slow
def test_training_resumes_and_names_the_contenders_that_are_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_speed, "find_spec", lambda name: None)
    contenders = ["ours, with dropout", "plain Trainer", "TextBrewer"]
    options = ["--quick", "--work-dir", str(tmp_path), "--rounds", "1", "--contenders", *contenders]
    training_speed.main(options)
    assert "skipping TextBrewer: it is not installed" in capsys.readouterr().err
    rows = read_json(tmp_path / "results.json")["training"]
    assert [row["contender"] for row in rows] == contenders[:2]
    for row in rows:
        assert sum(row["phases"].values()) == pytest.approx(1, abs=1e-4)
        assert 0 < row["utilisation"] < 1
        assert 0 <= row["accuracy"] <= 1
    assert rows[1]["of_fastest_peer"] == [1]
    assert str(tmp_path) not in (tmp_path / "results.json").read_text()
    monkeypatch.setattr(training_speed.subprocess, "run", None)
    training_speed.main(options)


@pytest.mark.slow
@pytest.mark.parametrize("peer", training_speed.PEERS)
def test_other_libraries_train_where_they_are_installed(peer, tmp_path):
    if importlib.util.find_spec(training_speed.PEERS[peer][0]) is None:
        pytest.skip(f"{peer} is not installed")
    training_speed.main(["--quick", "--work-dir", str(tmp_path), "--rounds", "1", "--contenders", peer])
    assert read_json(tmp_path / "results.json")["training"][0]["examples_per_second"][0] > 0


def test_labelling_is_measured_beside_a_padded_loop(tmp_path):
    labelling_speed.main(["--quick", "--work-dir", str(tmp_path)])
    rows = read_json(tmp_path / "results.json")["labelling"]
    assert [(row["teacher"], row["batch_size"]) for row in rows] == [("tiny", 2), ("tiny", 4)]
    assert all(row["texts_per_second"][0] > 0 and row["of_padded_loop"][0] > 0 for row in rows)


@pytest.mark.slow
def test_the_parts_of_a_step_add_up(tmp_path):
    operations.main(["--quick", "--work-dir", str(tmp_path)])
    rows = read_json(tmp_path / "results.json")["operations"]
    assert [row["batch_size"] for row in rows] == [8, operations.FEW_EXAMPLES]
    for row in rows:
        assert list(row["milliseconds"]) == [*operations.PARTS, operations.REMAINDER]
        assert sum(row["milliseconds"].values()) == pytest.approx(row["total_milliseconds"], rel=1e-4)
    assert rows[0]["arithmetic_milliseconds"] > 0


def test_operations_of_torch_belong_to_parts():
    names = ("aten::addmm", "aten::bernoulli_", "aten::_fused_adamw_", "aten::_softmax_backward_data", "aten::mul")
    layers, dropout, optimizer, softmax, remainder = map(operations.part_of, names)
    assert (layers, remainder) == ("matrix products of layers", "everything else")
    assert ("dropout" in dropout, "optimizer" in optimizer, "softmax" in softmax) == (True, True, True)


def rows_of(folder, section: str) -> list[dict]:
    text = (folder / "results.json").read_text()
    assert str(folder) not in text
    return read_json(folder / "results.json")[section]


@pytest.mark.slow
def test_pruning_measures_every_student_of_every_seed(no_processes, tmp_path):
    pruning.main(["--quick", "--seeds", "0", "1", "--work-dir", str(tmp_path)])
    rows = rows_of(tmp_path, "pruning")
    students = [student.name for student in pruning.QUICK_STUDENTS]
    assert [(row["seed"], row["student"]) for row in rows] == [(seed, name) for seed in (0, 1) for name in students]
    pruned, shallow = rows[:2]
    assert pruned["teacher"] == shallow["teacher"]
    assert pruned["megabytes"] < pruned["teacher_megabytes"]
    assert 0 <= shallow["agreement"] <= 1
    assert all(row["speedup"] > 0 for row in rows)
    pruning.main(["--quick", "--seeds", "0", "--work-dir", str(tmp_path)])
    assert len(rows_of(tmp_path, "pruning")) == len(rows)  # the other seed's rows stay


@pytest.mark.slow
def test_quantization_measures_every_scheme_and_skips_missing_backends(no_processes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    load_backend = quantization.load_backend

    def without_quanto(name: str):
        if name == "quanto":
            raise ImportError("no quanto here")
        return load_backend(name)

    monkeypatch.setattr(quantization, "load_backend", without_quanto)
    quantization.main(["--quick", "--backends", "onnx", "quanto", "--work-dir", str(tmp_path)])
    assert "skipping quanto: no quanto here" in capsys.readouterr().err
    rows = rows_of(tmp_path, "quantization")
    schemes = ["int8-dynamic", "int8-dynamic-int4-embeddings", "float32"]
    models = ["teacher", "3 layers, smaller vocabulary"]
    assert [(row["model"], row["weights"]) for row in rows] == [
        *((model, "float32") for model in models),
        *((model, scheme) for model in models for scheme in schemes),
    ]
    assert (rows[0]["agreement"], rows[0]["timings"][0]["speedup"]) == (None, 1)


@pytest.mark.slow
def test_out_of_domain_has_a_row_per_domain_and_model(tmp_path):
    out_of_domain.main(["--quick", "--work-dir", str(tmp_path)])
    rows = rows_of(tmp_path, "out_of_domain")
    models = ["teacher", *(out_of_domain.SIZES[stage] for stage in out_of_domain.STUDENTS)]
    assert [(row["domain"], row["model"]) for row in rows] == [
        (domain, model) for domain in out_of_domain.DOMAINS for model in models
    ]
    teacher, student = rows[:2]
    assert student["change"] == pytest.approx(student["accuracy"] - teacher["accuracy"])
    low, high = student["interval"]
    assert low <= student["change"] <= high


def test_texts_of_a_domain_are_fetched_once(tmp_path, monkeypatch):
    kinds = []
    texts = Dataset.from_dict({"text": ["good"], "label": ["positive"]})
    monkeypatch.setattr(out_of_domain, "rated_texts", lambda kind: kinds.append(kind) or texts)
    for _ in range(2):
        out_of_domain.fetch("tweets", tmp_path / "tweets")
    assert kinds == ["tweets"]
