"""Every example runs to its end on tiny models."""

import re
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from transformers import BertModel

import custom_objective
import lora
import own_data
import quickstart
import several_teachers
import token_classification
from tests.factories import LABELS, TEXTS, build_teacher, build_tokenizer, read_json
from tkd_hf import OBJECTIVES, Signals
from tkd_hf.cli.recipe import Recipe, stage_values
from tkd_hf.cli.registry import COMMANDS


EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = ["negative" if label == 0 else "positive" for label in LABELS]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every example writes into a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def encoder(tmp_path):
    """Return the folder of a pre-trained encoder with two layers."""
    build_teacher(kind=BertModel, layers=2).save_pretrained(tmp_path / "encoder")
    build_tokenizer().save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.fixture
def reviews(tmp_path):
    """Return a folder with a training and a validation split."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict({"text": TEXTS, "label": CLASSES}).to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.slow
def test_own_data_makes_an_int8_student_from_a_csv_file(tmp_path, encoder, capsys):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "notes.csv"
    Dataset.from_dict({"note": TEXTS * 3, "mood": CLASSES * 3}).to_csv(file)
    columns = ["--text-column", "note", "--label-column", "mood"]
    own_data.main([str(file), *columns, "--encoder", encoder, "--layers", "1", "--epochs", "1"])
    assert (own_data.FOLDER / "student-int8/onnx/model_quantized.onnx").exists()
    printed = capsys.readouterr().out
    assert re.search(r"student, int8 +accuracy [01]\.\d{3}, f1 [01]\.\d{3}, agreement [01]\.\d{3}", printed)
    assert len(re.findall(r"'label': '(negative|positive)'", printed)) == 2


def test_custom_objective_trains_and_reports_its_own_loss(tmp_path, teacher_folder, reviews):
    options = ["--teacher", teacher_folder, "--data", reviews, "--output-dir", tmp_path / "student", "--layers", "1"]
    metrics = custom_objective.main(list(map(str, options)))
    assert metrics["eval_loss_centred_logits"] > 0
    assert 0 <= metrics["eval_accuracy"] <= 1
    assert (tmp_path / "student/model.safetensors").exists()


def test_custom_objective_ignores_a_constant_added_to_the_logits():
    objective = OBJECTIVES["centred_logits"].build(None)
    student, teacher = Signals(logits=torch.tensor([[1.0, 3.0]])), Signals(logits=torch.tensor([[6.0, 8.0]]))
    assert objective(student, teacher, {}).item() == 0
    assert objective(student, Signals(logits=torch.tensor([[3.0, 1.0]])), {}).item() == 4


def test_token_classification_evaluates_entities(encoder, capsys):
    token_classification.main(["--encoder", encoder, "--layers", "1", "--sentences", "8"])
    assert re.search(r"student +entity F1 [01]\.\d{3}", capsys.readouterr().out)


def test_lora_merges_two_teachers_and_keeps_one_adapter(encoder, reviews):
    lora.main(["--encoder", encoder, "--data", reviews, "--train-split", "train"])
    files = {path.name: sorted(file.name for file in path.glob("*.safetensors")) for path in lora.FOLDER.iterdir()}
    assert files == {
        "teacher-lora": ["model.safetensors"],
        "teacher-qlora": ["model.safetensors"],
        "student-adapter": ["adapter_model.safetensors"],
    }


def test_several_teachers_make_one_student(encoder, reviews, capsys):
    arguments = ["--encoder", encoder, "--data", reviews, "--train-split", "train", "--layers", "1", "--epochs", "1"]
    several_teachers.main(arguments)
    printed = capsys.readouterr().out
    assert re.findall(r"teacher-(\d) accuracy [01]\.\d{3}, agreement with it [01]\.\d{3}", printed) == ["0", "1"]


def test_recipe_names_existing_stages_and_options():
    recipe = Recipe.read(EXAMPLES / "recipe.yaml")
    for name, options in recipe.stages:
        assert stage_values(COMMANDS[name], recipe, {}, options)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_use_public_names_only(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 100
    assert not re.search(r"^(from|import) tkd_hf\.", source, re.MULTILINE)


CONFIGURATIONS = sorted((Path(__file__).parents[2] / "examples/accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_the_launch_configurations(path):
    assert load_config_from_file(str(path)).num_processes > 1


@pytest.mark.slow
def test_quickstart_compares_teacher_student_and_int8(tmp_path, monkeypatch, capsys):
    """Everything but the two downloads. It takes 20 seconds: two trainings, an export to ONNX and an evaluation."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    encoder, reviews = tmp_path / "encoder", tmp_path / "reviews"
    build_teacher(layers=6).save_pretrained(encoder)
    build_tokenizer().save_pretrained(encoder)
    reviews.mkdir()
    labels = ["negative" if label == 0 else "positive" for label in LABELS]
    for split in ("train", "validation", "test"):
        Dataset.from_dict({"text": TEXTS, "label": labels}).to_parquet(reviews / f"{split}.parquet")
    monkeypatch.setattr(quickstart, "fetch_encoder", lambda folder: encoder)
    monkeypatch.setattr(quickstart, "fetch_reviews", lambda folder: reviews)
    quickstart.main(["--seed", "3"])
    results = read_json(quickstart.FOLDER / "results-3.json")
    assert [results["split"], results["examples"]] == ["test", len(TEXTS)]
    assert [model["backend"] for model in results["models"]] == ["pytorch", "pytorch", "onnx"]
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in quickstart.SENTENCES)
    teacher, _, int8 = results["models"]
    assert f"keeps {int8['metrics']['accuracy'] / teacher['metrics']['accuracy']:.1%}" in printed
