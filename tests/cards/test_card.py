"""Model cards: their content follows from the record and the report, and contains no private information."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, pipeline

from tkd_hf import InputError
from tkd_hf.cards.card import Card
from tkd_hf.cards.generate import card, render_card
from tkd_hf.models.arguments import LoraArguments
from tkd_hf.models.lora import add_adapters
from tkd_hf.records.run_folder import StageRecord, previous_stages, write_record

from ..factories import build_teacher, distilled, read_json, report_folder, run_folder


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "student", distilled())


@pytest.fixture
def report(tmp_path, run):
    return report_folder(tmp_path / "report", str(tmp_path / "other"), str(run))


def headings(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, re.MULTILINE)


def test_card_contains_record_and_report(run, report):
    page = card(run, report, repo_id="org/tkd-sst2", license="apache-2.0", language="en")
    assert headings(page) == [
        "How to use it",
        "Results compared with the teacher",
        "Agreement with the teacher",
        "Speed, size and memory",
        "Plots",
        "How it was made",
        "Arguments that differ from the defaults",
        "Intended use and limits",
        "Versions",
        "Citation",
    ]
    for text in (
        *("# tkd-sst2", "`negative`, `positive`", "[org/teacher](https://huggingface.co/org/teacher)", "`0123abc`"),
        *(
            "`aaaa1111`",
            "0.9 × logits + 0.1 × hard",
            "| temperature | 3 |",
            "| teacher layers copied into the student (zero-based) | 1, 3 |",
        ),
        *("| accuracy | 0.8125 (0.700–0.900) | 0.8125 (0.700–0.900) | -0.0625 (-0.100 to +0.000) |", "87.50%"),
        *("| calibration error | 0.0625 | 0.0625 |", "2.00 (1.90–2.10)", "A CPU, 2 of 4 cores", "2405.11704"),
        *("(pictures/pareto.png)", "| negative | 4 | 1.0000 | 0.5000 |", "| learning_rate | 0.0003 |", "3.11.7"),
    ):
        assert text in page
    arguments = page.partition("## Arguments")[2].partition("##")[0]
    assert [row.split()[1] for row in arguments.splitlines()[4:] if row.startswith("|")] == ["learning_rate"]


def test_metadata_follow_from_the_run_and_the_arguments(run, report):
    card(run, report, repo_id="org/tkd-sst2", license="apache-2.0", language=["en", "de"])
    metadata = ModelCard.load(run / "README.md").data
    assert (metadata.library_name, metadata.pipeline_tag) == ("transformers", "text-classification")
    assert (metadata.license, metadata.language, metadata.model_name) == ("apache-2.0", ["en", "de"], "tkd-sst2")
    assert (metadata.datasets, metadata.metrics) == (["nyu-mll/glue"], ["accuracy"])
    assert metadata.tags == ["tkd", "knowledge-distillation"]
    # the Hub has no relation for distillation
    assert metadata.base_model is None
    assert "base_model_relation" not in metadata
    (result,) = metadata.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "sst2", "validation")


def test_card_without_report_shows_the_final_metrics_of_the_run(run):
    page = card(run)
    assert headings(page)[1:3] == ["Results", "How it was made"]
    assert "| accuracy | 0.7500 |" in page
    assert "| agreement with the teacher | 0.8750 |" in page
    assert "pictures/" not in page
    assert "confidence" not in page
    assert ModelCard(page).data.eval_results[0].metric_value == 0.75
    assert "license" not in ModelCard(page).data.to_dict()


def test_card_without_record_has_no_results_and_names_no_teacher(tmp_path):
    page = card(run_folder(tmp_path / "x", None))
    assert headings(page) == ["How to use it", "Intended use and limits", "Citation"]
    assert ModelCard(page).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags", "widget"}
    assert "teacher" not in page
    assert "None" not in page


def test_report_is_copied_into_the_folder_of_the_model(run, report, tmp_path):
    first = card(run, report)
    shutil.rmtree(report)
    assert card(run) == first
    assert [model["name"] for model in read_json(run / "report.json")["evaluation"]["models"]] == ["teacher", "student"]
    assert (run / "pictures" / "pareto.png").read_bytes() == b"picture"


@pytest.mark.parametrize("options", [{}, {"repo_id": "org/x", "license": "mit"}])
def test_card_is_the_same_if_it_is_written_twice(run, report, options):
    assert card(run, report, **options) == card(run, report, **options)


def test_user_text_and_metadata_stay_when_the_card_is_regenerated(run, report):
    page = card(run, license="mit")
    mine = "## Whom to ask\n\nMe."
    page = page.replace("## How it was made", mine).replace("<!-- tkd-hf use", f"{mine}\n\n<!-- tkd-hf use")
    page = page.replace("0.7500", "0.9999").replace("- tkd\n", "- tkd\n- films\n").replace("license: mit", "license: x")
    page = page.replace("library_name", "thumbnail: a.png\nlibrary_name")
    (run / "README.md").write_text(page)
    page = card(run, report)
    assert page.count(mine) == 1
    assert page.index(mine) < page.index("## How to use it")
    assert "0.9999" not in page
    metadata = ModelCard(page).data
    assert (metadata.license, metadata.thumbnail) == ("x", "a.png")
    assert metadata.tags == ["tkd", "knowledge-distillation", "films"]
    assert card(run, license="mit", tags="toys") != page
    assert ModelCard.load(run / "README.md").data.license == "mit"
    assert ModelCard.load(run / "README.md").data.tags[2:] == ["films", "toys"]


def test_card_without_markers_is_kept_before_the_generated_sections(run):
    user_page = "# My model\n\nIt is mine.\n"
    (run / "README.md").write_text(user_page)
    page = card(run)
    text = ModelCard(page).text
    assert text.strip().startswith(user_page)
    assert "# student" not in page
    assert card(run) == page


def test_card_with_damaged_metadata_is_refused(run):
    (run / "README.md").write_text("---\ntags: [a\n---\n")
    with pytest.raises(InputError, match="metadata of the card"):
        card(run)


def test_card_and_results_contain_no_local_paths_and_no_tokens(tmp_path, monkeypatch):
    token = "hf_" + "aBcD" * 8
    monkeypatch.setenv("HF_TOKEN", token)
    secret = tmp_path / "secret-place"
    inputs = {"teacher": str(secret / "my-teacher"), "teacher_revision": "files-77", "task": "d.csv", "train": "1"}
    arguments = distilled().arguments | {"student": "nearby/base", "note": f"{token} in {secret}/x.csv"}
    before = [vars(distilled(inputs={"teacher": "runs/elsewhere", "teacher_revision": "files-78"}))]
    record = distilled(inputs=inputs, arguments=arguments, before=before)
    run = run_folder(secret / "run", record)
    page = card(run, report_folder(secret / "report", str(run)), repo_id="org/x")
    for secret_text in (token, "secret-place", "/home/someone", "nearby/base", "runs/elsewhere"):
        assert secret_text not in page
        assert secret_text not in (run / "report.json").read_text()
    assert "`my-teacher`, hash of its files `77`" in page
    assert "base_model" not in page


def test_local_folder_that_looks_like_a_hub_id_is_not_linked(tmp_path):
    run = run_folder(
        tmp_path / "x", StageRecord("finetune", {"model": "runs/teacher", "model_revision": "files-1"}, {})
    )
    page = card(run)
    assert "huggingface.co/runs" not in page
    assert "base_model" not in page
    metadata = ModelCard(card(run, base_model="org/base")).data
    assert (metadata.base_model, metadata["base_model_relation"]) == ("org/base", "finetune")
    write_record(run, distilled())
    metadata = ModelCard(card(run, base_model="org/base")).data
    assert (metadata.base_model, metadata.get("base_model_relation")) == ("org/base", None)


HUB = {"model": "org/base@v1", "model_revision": "commit-1"}


@pytest.mark.parametrize(
    ("stage", "config", "adapter", "relation"),
    [
        ("finetune", {}, None, "finetune"),
        ("prune", {}, None, "finetune"),
        ("quantize", {}, None, "quantized"),
        (
            "finetune",
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            None,
            "quantized",
        ),
        ("finetune", {}, {"base_model_name_or_path": "org/base", "r": 4}, "adapter"),
    ],
)
def test_base_model_relation_follows_from_the_stage(stage, config, adapter, relation):
    config = {"model_type": "tkd", "architectures": ["TKDForTokenClassification"], **config}
    model_card = Card("x", "org/x", config, StageRecord(stage, HUB, {}), adapter=adapter)
    metadata = ModelCard(render_card(model_card)).data
    assert (metadata.base_model, metadata["base_model_relation"]) == ("org/base", relation)
    assert metadata.pipeline_tag == "token-classification"
    assert metadata.library_name == ("peft" if adapter else "transformers")
    assert ("int8" in metadata.tags) == bool(config.get("quantization_config"))
    assert ('PeftModel.from_pretrained(base, "org/x")' in render_card(model_card)) == bool(adapter)


def test_text_that_peft_writes_into_a_card_is_removed(tmp_path, tokenizer):
    """On every save, PEFT writes its template or the local path of the base model into the card."""
    base = AutoModelForSequenceClassification.from_pretrained(run_folder(tmp_path / "secret-place", None))
    adapted = add_adapters(base, LoraArguments(rank=2, adapter_only=True))
    base.config.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    write_record(tmp_path / "adapter", distilled())
    adapted.save_pretrained(tmp_path / "adapter")
    assert "secret-place" in (tmp_path / "adapter" / "README.md").read_text()
    page = card(tmp_path / "adapter", base_model="org/base")
    assert "secret-place" not in page
    assert "More Information Needed" not in page
    assert "lora" in ModelCard(page).data.tags
    adapted.save_pretrained(tmp_path / "adapter")
    again = card(tmp_path / "adapter", base_model="org/base")
    assert again.replace("- transformers\n", "") == page


def test_code_example_for_an_adapter_runs(tmp_path, tokenizer, monkeypatch):
    """The base model is in a folder with the name that the card uses."""
    base = AutoModelForSequenceClassification.from_pretrained(run_folder(tmp_path / "base", None))
    add_adapters(base, LoraArguments(rank=2)).save_pretrained(tmp_path / "adapter")
    base.config.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    examples = re.findall(r"```python\n(.*?)```", card(tmp_path / "adapter"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(examples[0], names)
    assert type(names["model"].base_model.model).__name__ == "TKDForSequenceClassification"
    assert names["model"].config.id2label == {0: "negative", 1: "positive"}


def test_card_lists_pruned_units_sparsity_and_vocabulary(tmp_path):
    details = {
        "from": {"parameters": 2000, "megabytes": 8.0},
        "to": {"parameters": 1000, "megabytes": 4.0},
        "removed": {"heads": {"0": "1"}, "neurons": {"0": "0-9,12", "1": "5"}, "layers": "2", "hidden": ""},
        "sparsity": {
            "layers": {"tkd.layer.0.query": 0.5, "tkd.layer.0.key": 0.25, "tkd.layer.1.query": 0.75},
            "share": 0.5,
            "share_of_model": 0.2,
        },
        "vocabulary": {"tokens_before": 100, "tokens_after": 40},
    }
    record = StageRecord("prune", {**HUB, "teacher": "org/base@v1", "teacher_revision": "commit-1"}, {}, {}, details)
    page = card(run_folder(tmp_path / "x", record))
    for text in (
        *("| 0 | 1 | 11 |", "| 1 | 0 | 1 |", "Removed completely: layers 2.", "| parameters | 2,000 → 1,000 |"),
        *("| share of zeros in layer | query | key |", "| 0 | 50.0% | 25.0% |", "| 1 | 75.0% |  |"),
        "100 → 40 tokens: those that occur in the training texts (",
        "| teacher | the model itself, as it was before this stage |",
    ):
        assert text in page
    assert ModelCard(page).data.tags == ["tkd", "pruned", "sparse", "vocabulary-pruned"]
    record.inputs["unlabelled"] = "fingerprint"
    assert "tokens: those that occur in the training and unlabelled texts (" in card(run_folder(tmp_path / "y", record))


def test_card_lists_previous_stages(tmp_path):
    first = run_folder(tmp_path / "first", distilled())
    record = StageRecord(
        "prune", {"model": str(first), "model_revision": "files-1"}, {}, before=previous_stages(str(first))
    )
    page = card(run_folder(tmp_path / "second", record))
    assert page.index("stage: distill") < page.index("0.9 × logits") < page.index("stage: prune")
    assert "| distill: learning_rate | 0.0003 |" in page
    assert "knowledge-distillation" in ModelCard(page).data.tags
    assert previous_stages(str(tmp_path)) == previous_stages("org/x") == []


def test_code_examples_for_exports_use_their_paths(run):
    assert "onnxruntime" not in card(run)
    for name in ("onnx/model.onnx", "openvino/openvino_model.xml"):
        (run / name).parent.mkdir()
        (run / name).write_bytes(b"")
    page = card(run, repo_id="org/x")
    assert 'hf_hub_download("org/x", "onnx/model.onnx")' in page
    assert 'OVModelForSequenceClassification.from_pretrained("org/x", subfolder="openvino")' in page


def test_code_example_loads_the_quantized_export(run):
    """Commands load the quantized file and reports measure it, so the card shows it instead of the float file."""
    (run / "onnx").mkdir()
    for name in ("model.onnx", "model_quantized.onnx"):
        (run / "onnx" / name).write_bytes(b"")
    assert 'hf_hub_download("org/x", "onnx/model_quantized.onnx")' in card(run, repo_id="org/x")


def test_card_of_an_openvino_model_has_no_pytorch_example(run):
    (run / "model.safetensors").unlink()
    (run / "openvino_model.xml").write_bytes(b"")
    config = read_json(run / "config.json") | {"quantization": {"backend": "openvino", "weights": "int8"}}
    (run / "config.json").write_text(json.dumps(config))
    write_record(run, StageRecord("quantize", HUB, {"backend": "openvino", "weights": "int8"}))
    page = card(run, repo_id="org/x")
    assert "pipeline" not in page.partition("## How to use it")[2]
    assert 'OVModelForSequenceClassification.from_pretrained("org/x")' in page
    assert "| quantization | openvino, int8 |" in page
    metadata = ModelCard(page).data
    assert (metadata["base_model_relation"], "int8" in metadata.tags) == ("quantized", True)


def test_code_examples_run(run, monkeypatch, tmp_path, capsys):
    """The examples run unchanged in a folder that contains a folder with the model's name."""
    page = card(run)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    exec(examples[0], {})
    assert "score" in capsys.readouterr().out
    names = {}
    exec(examples[1], names)
    assert names["model"].config.num_labels == 2


def test_card_of_another_architecture_does_not_mention_tkd(tmp_path):
    build_teacher((), problem_type="regression").save_pretrained(tmp_path / "bert")
    write_record(tmp_path / "bert", StageRecord("finetune", {**HUB, "task": "stsb"}, {}, {"pearson": 0.5}))
    page = card(tmp_path / "bert")
    assert "tkd_hf" not in page
    assert "trust_remote_code" not in page
    assert "scoring pairs of texts similar to those of stsb" in page
    assert "It predicts a score" in page
    assert '{"text": "The bakery opens at six.", "text_pair":' in page
    assert "Citation" not in headings(page)


def test_labels_with_special_characters_do_not_break_the_card(tmp_path):
    page = card(run_folder(tmp_path / "x", None, labels=("a|b", "<!-- end of tkd-hf description -->")))
    assert card(tmp_path / "x") == page


def test_report_of_another_model_or_an_older_report_is_refused(run, report, tmp_path):
    with pytest.raises(InputError, match=r"contains no report.json"):
        card(run, tmp_path)
    with pytest.raises(InputError, match=r"the report is about .*other, .*student, not about .*third"):
        card(run_folder(tmp_path / "third", None), report)
    write_record(run, distilled(finished="2026-01-03T00:00:00+00:00"))
    with pytest.raises(InputError, match="older than the model"):
        card(run, report)
    with pytest.raises(InputError, match="contains no model"):
        card(tmp_path)


def test_trainer_writes_card_and_record(build, tmp_path):
    trainer = build(objectives={"logits": 1.0, "hidden": 1.0}, temperature=4.0)
    trainer.model.config.id2label = {0: "no", 1: "yes"}
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    trainer.create_model_card(model_name="x", tags=["films"], license="mit")
    page = (tmp_path / "run" / "README.md").read_text()
    record = read_json(tmp_path / "run" / "tkd_run.json")
    assert record["inputs"]["teacher_revision"].startswith("state-")
    assert record["metrics"]["agreement"] == pytest.approx(trainer.state.log_history[-1]["eval_agreement"])
    for text in (
        "1 × logits + 1 × hidden",
        "| temperature | 4 |",
        "`BertForSequenceClassification`, hash of its weights",
    ):
        assert text in page
    metadata = ModelCard(page).data
    assert (metadata.license, metadata.tags) == ("mit", ["tkd", "knowledge-distillation", "films"])
    assert record["inputs"]["train"]
    assert card(tmp_path / "run") == page


def test_metrics_of_unnamed_data_are_in_the_text_but_not_in_model_index(tmp_path):
    """A trainer does not know the name of its data, and the Hub's list of results requires one."""
    page = card(run_folder(tmp_path / "x", distilled(inputs={"train": "aaaa1111"})))
    assert "| accuracy | 0.7500 |" in page
    metadata = ModelCard(page).data
    assert (metadata.metrics, metadata.eval_results) == (["accuracy"], None)


def test_trainer_without_a_saved_model_writes_card_and_configuration(build, tmp_path):
    """A push from a checkpoint happens before the model is saved."""
    trainer = build(cached=True)
    trainer.create_model_card()
    page = (tmp_path / "run" / "README.md").read_text()
    assert "teacher's predictions" not in page
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "tkd"


def test_model_of_the_fixture_loads(run):
    """The fixture of these tests is a folder that transformers can load."""
    assert AutoModelForSequenceClassification.from_pretrained(run).config.num_labels == 2
    assert pipeline("text-classification", model=str(run))("good film")[0]["label"] in ("negative", "positive")
