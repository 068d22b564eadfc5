"""The benchmark of training at its quick size: what is counted, timed, written and passed over."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch.utils.flop_counter import FlopCounterMode

import attention
import labelling
import operations
import scale
import table
import training
from clock import PHASES, Clock, matmul_peak, useful_flops
from tests.conftest import build_teacher, read_json
from tkd_hf import student_from_teacher


def test_useful_operations_are_those_of_a_batch_without_padding():
    model = student_from_teacher(build_teacher(attn_implementation="eager"), num_hidden_layers=2)
    model.set_attn_implementation("eager")
    head = 2 * 16 * 2  # the classifier is not worth a term
    for first_only in (True, False):
        with FlopCounterMode(display=False) as counted:
            model(input_ids=torch.tensor([[1, 5, 6, 2]]))
        assert useful_flops(model.config, [4], 1, first_only) == counted.get_total_flops() - head
        assert useful_flops(model.config, [4, 2], 3, first_only) == 3 * (
            useful_flops(model.config, [4], 1, first_only) + useful_flops(model.config, [2], 1, first_only)
        )
        model.tkd.layers[0].register_forward_hook(lambda *_: None)  # who looks inside sees all tokens
    assert matmul_peak(bf16=False, patience=0.01) > 0


def test_phases_add_up_to_the_time_of_the_steps(teacher):
    student, clock = student_from_teacher(teacher, num_hidden_layers=1), Clock(2)
    clock.watch(student, teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(clock.total_steps):
        with torch.no_grad():
            wanted = teacher(input_ids=torch.tensor([[1, 5, 2]])).logits
        (student(input_ids=torch.tensor([[1, 5, 2]])).logits - wanted).square().sum().backward()
        optimizer.step()
    assert set(clock.phases) == set(PHASES)
    assert sum(clock.phases.values()) == pytest.approx(clock.seconds, rel=0.05)


def test_ratios_are_within_rounds():
    def run(contender, seed, examples):
        fields = {"flops": 6.0, "seconds": 3.0, "peak": 8.0 - 4 * seed, "peak_megabytes": 1.0, "accuracy": 0.9}
        fields["precision"] = "fp32"
        return {"contender": contender, "seed": seed, "examples": examples, "phases": dict.fromkeys(PHASES, 0)} | fields

    runs = [run("ours", 0, 60), run("plain Trainer", 0, 10), run("TextBrewer", 0, 20)]
    runs += [run("ours", 1, 30), run("plain Trainer", 1, 5), run("TextBrewer", 1, 3)]
    rows = {row["contender"]: row for row in table.summary(runs)}
    assert list(rows) == ["ours", "plain Trainer", "TextBrewer"]
    assert rows["ours"]["of_fastest_peer"] == 4.5  # of 3 and 6
    assert rows["plain Trainer"]["examples"] == 7.5
    assert {row["utilisation"] for row in rows.values()} == {0.25}  # 2 of 8, the larger peak of the two rounds
    runs += [run("labelling, ours", 0, 90), run("labelling, padded loop", 0, 30)]
    assert {row["contender"]: row for row in table.summary(runs)}["labelling, ours"]["of_fastest_peer"] == 3


@pytest.mark.slow
def test_it_trains_resumes_and_names_who_is_not_there(teacher_folder, sst2_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    contenders = ["ours, with dropout", "plain Trainer", "TextBrewer", "labelling, ours"]
    words = ["--teacher", str(teacher_folder), "--data-dir", str(sst2_dir), "--quick", "--layers", "1"]
    words += ["--work-dir", str(tmp_path / "work"), "--results-dir", str(tmp_path), "--contenders", *contenders]
    assert training.main(words) == 0
    assert "TextBrewer is not installed and is passed over" in capsys.readouterr().err
    content, text = read_json(tmp_path / "training-fp32.json"), (tmp_path / "training-fp32.md").read_text()
    assert content["absent"] == ["TextBrewer"]
    assert [row["contender"] for row in content["rows"]] == [
        "ours, with dropout",
        "plain Trainer",
        "labelling, ours",
    ]
    for row in content["rows"][:2]:
        assert sum(row["phases"].values()) == pytest.approx(1)
        assert 0 < row["utilisation"] < 1
        assert 0 <= row["accuracy"] <= 1
    assert str(tmp_path) not in text + str(content)
    monkeypatch.setattr(training.subprocess, "run", None)
    assert training.main(words) == 0


@pytest.mark.slow
@pytest.mark.parametrize("peer", training.PEERS)
def test_peers_train_where_they_are_installed(peer, teacher_folder, sst2_dir, tmp_path):
    if importlib.util.find_spec(training.PEERS[peer][0]) is None:
        pytest.skip(f"{peer} is not installed")
    words = ["--teacher", str(teacher_folder), "--data-dir", str(sst2_dir), "--quick", "--layers", "1"]
    words += ["--work-dir", str(tmp_path / "work"), "--results-dir", str(tmp_path), "--contenders", peer]
    assert training.main(words) == 0
    assert read_json(tmp_path / "training-fp32.json")["rows"][0]["examples"] > 0


@pytest.mark.slow
def test_operations_add_up(teacher_folder, sst2_dir, tmp_path):
    words = ["--teacher", str(teacher_folder), "--data-dir", str(sst2_dir), "--quick", "--layers", "1"]
    assert operations.main([*words, "--work-dir", str(tmp_path / "work"), "--results-dir", str(tmp_path)]) == 0
    page = (tmp_path / "operations.md").read_text()
    assert "--data-dir DATA --batch-size 8 --steps 2`" in page
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:1] == "|"]
    assert head[1:] == ["fp32, 8 examples", "fp32, 2 examples"]
    assert [row[0] for row in rows] == [*operations.PARTS, "all else", "in all"]
    for *parts, whole in zip(*(map(float, row[1:]) for row in rows), strict=True):
        assert whole == pytest.approx(sum(parts), abs=0.5)  # each is rounded
        assert whole > 0
    assert re.search(r"the arithmetic on the tokens of 8 examples, \d+\.\d GFLOP, would take \d+\.\d ms", page)
    names = ("aten::addmm", "aten::bernoulli_", "aten::_fused_adamw_", "aten::_softmax_backward_data", "aten::mul")
    layers, dropout, optimizer, softmax, rest = map(operations.part_of, names)
    assert (layers, rest) == ("matrix products of layers", "all else")
    assert ("dropout" in dropout, "optimizer" in optimizer, "softmax" in softmax) == (True, True, True)


def test_attention_is_the_same_fused_or_not_and_both_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # for the tests after this one
    states = torch.randn(3, 2, attention.HEADS, 4, attention.HEAD_DIM)
    torch.testing.assert_close(attention.eager(*states), attention.scaled_dot_product_attention(*states))
    attention.main(tmp_path, lengths=(512,), rounds=1)
    rows = [line for line in (tmp_path / "attention.md").read_text().splitlines() if line.startswith("| 512 ")]
    assert [row.split(" | ")[1] for row in rows] == ["fp32", "bf16"]


def test_costs_fall_with_devices_and_say_what_was_measured():
    rows = [{"contender": name, "rate": 1e12, "precision": "fp32"} for name in ("ours", "labelling, ours")]
    content = {"rows": rows, "hardware": {"accelerator": "X", "cpu": None, "threads": 1}}
    text = scale.table(content)
    days = scale.useful_flops(scale.MODELS["BERT-large"], [20], 1, True) * 1e9 / 1e12 / 86400
    assert f"| label with BERT-large | {days:,.1f} days | {days / 8:,.1f} days" in text
    assert f"| {24 * days / 512:.1f} hours |" in text
    assert "Measured in fp32, on one device: 1,000 GFLOP/s of labelling, 1,000 of training." in text

    sizes = [{"teacher": name, "rate": rate} for name in scale.MODELS for rate in (1e12, 2e12)]
    sizes[-1]["rate"] = 4e12  # of BERT-large, with the larger of two batches
    text = scale.table(content, {"rows": sizes})
    assert f"| label with BERT-large | {days / 4:,.1f} days |" in text
    assert "2,000, 4,000 GFLOP/s of labelling" in text


def test_teachers_of_any_size_label_beside_a_padded_loop(teacher_folder, sst2_dir, tmp_path):
    words = ["--tokenizer", teacher_folder, "--data-dir", sst2_dir, "--texts", 5, "--batch-sizes", 2, 3, "--rounds", 1]
    models = {"small": build_teacher().config}
    assert labelling.main([*map(str, words), "--results-dir", str(tmp_path)], models) == 0
    rows = read_json(tmp_path / "labelling.json")["rows"]
    assert [(row["teacher"], row["batch_size"]) for row in rows] == [("small", 2), ("small", 3)]
    assert all(row["texts"] > 0 and row["of_padded_loop"] > 0 for row in rows)
    assert "--texts 5 --rounds 1`" in (tmp_path / "labelling.md").read_text()


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples/accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_reads_the_configurations(path):
    assert load_config_from_file(str(path)).num_processes > 1
