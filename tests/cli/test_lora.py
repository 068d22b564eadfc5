"""LoRA on the command line: fine-tuned teachers, students as adapters, and tasks that share a base."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tkd_hf import InputError
from tkd_hf.models.lora import merge_adapter

from ..factories import FAST, build_teacher, build_tokenizer, logits_of_texts, read_json, student_of


def test_finetune_and_distill_with_lora_save_merged_models(run, tmp_path, teacher_folder, sst2_dir):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    teacher, student = tmp_path / "tuned", tmp_path / "student"
    code, _, err = run("finetune", teacher_folder, *data, "--lora", "--output-dir", teacher, *FAST.split())
    assert code == 0, err
    record = read_json(teacher / "tkd_run.json")["arguments"]
    float_base = {"load_in_8bit": False, "load_in_4bit": False}
    assert record["lora"] == {"rank": 8, "targets": "linear", "adapter_only": False, **float_base}
    assert record["learning_rate"] == "0.0005"
    adapter = read_json(teacher / "adapter" / "adapter_config.json")
    assert adapter["base_model_name_or_path"] == str(teacher_folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in teacher.iterdir()}

    args = ["--lora", "--lora-rank", 2, "--layers", 2, "--learning-rate", "1e-3", "--output-dir", student]
    code, _, err = run("distill", teacher, *data, *args, *FAST.split())
    assert code == 0, err
    record = read_json(student / "tkd_run.json")
    assert (record["arguments"]["lora"]["rank"], record["arguments"]["learning_rate"]) == (2, "0.001")
    code, _, err = run("evaluate", student, "--teacher", teacher, *data, "--json", tmp_path / "e.json")
    assert code == 0, err
    rows = read_json(tmp_path / "e.json")["models"]
    assert rows[1]["metrics"]["accuracy"] == record["metrics"]["accuracy"]


def test_the_saved_adapter_gives_the_logits_of_the_merged_model(run, tmp_path, teacher_folder, sst2_dir, tokenizer):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--lora", "--learning-rate", 0.01, *FAST.split()]
    assert run("finetune", teacher_folder, *args, "--output-dir", tmp_path / "t")[0] == 0
    base = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    before = logits_of_texts(base, tokenizer)
    unmerged = logits_of_texts(PeftModel.from_pretrained(base, tmp_path / "t" / "adapter"), tokenizer)
    merged = logits_of_texts(AutoModelForSequenceClassification.from_pretrained(tmp_path / "t"), tokenizer)
    assert not torch.allclose(before, merged, atol=1e-2)
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def adapters(shared):
    """Train two adapters of one base; the second one learns from a teacher with the opposite predictions."""
    base, teachers = shared.path / "base", {"one": shared.teacher, "two": shared.path / "opposite"}
    student_of(build_teacher()).tkd.save_pretrained(base)
    build_tokenizer().save_pretrained(base)
    opposite = AutoModelForSequenceClassification.from_pretrained(shared.teacher)
    for weight in opposite.classifier.parameters():
        weight.data = -weight.data
    opposite.save_pretrained(teachers["two"])
    build_tokenizer().save_pretrained(teachers["two"])
    args = [*shared.data, "--student", base, "--lora", "--adapter-only", "--learning-rate", 0.01]
    args += [*FAST.split(), "--num-train-epochs", 8]
    folders = {name: shared.path / name for name in teachers}
    errors = {
        name: shared.run("distill", teacher, *args, "--output-dir", folders[name])[1]
        for name, teacher in teachers.items()
    }

    def load_base():
        return AutoModelForSequenceClassification.from_pretrained(base)

    logits = {
        name: logits_of_texts(PeftModel.from_pretrained(load_base(), folder), build_tokenizer())
        for name, folder in folders.items()
    }
    return SimpleNamespace(base=base, load_base=load_base, folders=folders, errors=errors, logits=logits)


def test_an_adapter_alone_is_saved_with_the_name_of_its_base(adapters):
    assert not (adapters.folders["one"] / "model.safetensors").exists()
    config = read_json(adapters.folders["one"] / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(adapters.base)


def test_two_adapters_take_turns_on_one_base(adapters, tokenizer):
    predictions = [adapters.logits[name].argmax(-1) for name in ("one", "two")]
    assert (predictions[0] != predictions[1]).float().mean() > 0.5
    both = PeftModel.from_pretrained(adapters.load_base(), adapters.folders["one"], adapter_name="one")
    both.load_adapter(adapters.folders["two"], adapter_name="two")
    for name in ("one", "two", "one"):
        both.set_adapter(name)
        torch.testing.assert_close(logits_of_texts(both, tokenizer), adapters.logits[name], atol=1e-6, rtol=0)


def test_distill_suggests_how_to_merge_an_adapter(adapters):
    folder = adapters.folders["two"]
    assert f"merge_adapter('{folder}', '{folder}-merged')" in adapters.errors["two"].strip().splitlines()[-1]


def test_evaluating_an_adapter_asks_to_merge_it_first(adapters, shared, run):
    code, _, err = run("evaluate", adapters.folders["one"], *shared.data)
    line = err.strip().splitlines()[-1]
    assert code == 2
    assert f"holds an adapter of '{adapters.base}', not a model; merge the two first: python -c" in line


def test_a_merged_adapter_keeps_its_logits_labels_and_accuracy(adapters, shared, tmp_path, tokenizer):
    merged = merge_adapter(adapters.folders["one"], tmp_path / "merged")
    torch.testing.assert_close(logits_of_texts(merged, tokenizer), adapters.logits["one"], atol=1e-5, rtol=0)
    assert merged.config.id2label == {0: "negative", 1: "positive"}
    shared.run("evaluate", tmp_path / "merged", *shared.data, "--json", tmp_path / "e.json")
    accuracy = read_json(tmp_path / "e.json")["models"][0]["metrics"]["accuracy"]
    assert accuracy == read_json(adapters.folders["one"] / "tkd_run.json")["metrics"]["accuracy"]


def test_merging_needs_an_adapter_and_an_empty_folder(adapters, tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes").touch()
    with pytest.raises(InputError, match="merged already holds files"):
        merge_adapter(adapters.folders["one"], tmp_path / "merged")
    with pytest.raises(InputError, match="base holds no adapter"):
        merge_adapter(adapters.base, tmp_path / "other")


@pytest.mark.parametrize("flag", ["--load-in-8bit", "--load-in-4bit"])
def test_a_quantized_base_gives_a_merged_float_model(run, tmp_path, teacher_folder, sst2_dir, flag):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--lora", flag, "--output-dir", tmp_path / "t"]
    code, _, err = run("finetune", teacher_folder, *args, *FAST.split())
    assert code == 0, err
    assert "MatMul8bitLt" not in err  # bitsandbytes warns at every layer of every batch
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    adapter = read_json(tmp_path / "t" / "adapter" / "adapter_config.json")
    assert adapter["base_model_name_or_path"] == str(teacher_folder)


def test_a_recipe_passes_lora_options_to_its_stages(run, tmp_path, teacher_folder, sst2_dir):
    common = {"use_cpu": True, "bf16": False, "report_to": "none", "num_train_epochs": 1, "lora": True}
    recipe = {
        "model": str(teacher_folder),
        "data": {"task": "sst2", "data_dir": str(sst2_dir)},
        "stages": [{"finetune": common | {"lora_rank": 4}}, {"distill": common | {"layers": 2, "learning_rate": 1e-3}}],
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert code == 0, err
    records = [read_json(tmp_path / "out" / name / "tkd_run.json")["arguments"] for name in ("finetune", "distill")]
    assert [record["lora"]["rank"] for record in records] == [4, 8]
    assert [record["learning_rate"] for record in records] == ["0.0005", "0.001"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("finetune {teacher} --lora --lora-rank 0", "rank 0 has nothing to train"),
        ("finetune {teacher} --lora --lora-targets x", "targets 'x' are unknown; choose linear or attention"),
        ("finetune {teacher} --lora-rank 4", "--lora-rank belongs to --lora: add --lora"),
        ("distill {teacher} --layers 2 --lora --adapter-only", "name it with --student"),
        ("finetune {teacher} --lora --load-in-8bit --load-in-4bit", "load_in_8bit and load_in_4bit are both set"),
        ("distill {teacher} --layers 2 --load-in-8bit", "--load-in-8bit belongs to --lora: add --lora"),
    ],
)
def test_bad_lora_options_get_one_line_and_exit_code_2(run, tmp_path, teacher_folder, sst2_dir, args, message):
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out"]
    code, _, err = run(*args.format(teacher=teacher_folder).split(), *data)
    assert (code, message in err.strip().splitlines()[-1]) == (2, True)
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
