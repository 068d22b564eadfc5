"""The card says what was recorded, nothing else, and no more than the world may know."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, pipeline

from tkd_hf import InputError
from tkd_hf.adapters import LoraArguments, add_adapters
from tkd_hf.hub.card import Card
from tkd_hf.stages.card import card
from tkd_hf.stages.run_folder import StageRecord, previous_stages, write_record

from ..conftest import build_teacher, read_json
from .runs import distilled, report_folder, run_folder


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "student", distilled())


@pytest.fixture
def report(tmp_path, run):
    return report_folder(tmp_path / "report", str(tmp_path / "other"), str(run))


def headings(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, re.MULTILINE)


def test_what_was_recorded_is_said(run, report):
    page = card(run, report, repo_id="org/tkd-sst2", license="apache-2.0", language="en")
    assert headings(page) == [
        "How to load it",
        "Results beside the teacher",
        "How near to the teacher",
        "Speed, size and memory",
        "Pictures",
        "How it was made",
        "Arguments that differ from the defaults",
        "Intended use and limits",
        "Versions",
        "Citation",
    ]
    for said in (
        *("# tkd-sst2", "`negative`, `positive`", "[org/teacher](https://huggingface.co/org/teacher)", "`0123abc`"),
        *("`aaaa1111`", "0.9 × logits + 0.1 × hard", "| temperature | 3 |", "| layers taken from the teacher | 1, 3 |"),
        *("| accuracy | 0.8125 (0.700–0.900) | 0.8125 (0.700–0.900) | -0.0625 (-0.100 to +0.000) |", "87.50%"),
        *("| calibration error | 0.0625 | 0.0625 |", "2.00 (1.90–2.10)", "A CPU, 2 of 4 cores", "2405.11704"),
        *("(pictures/pareto.png)", "| negative | 4 | 1.0000 | 0.5000 |", "| learning_rate | 0.0003 |", "3.11.7"),
    ):
        assert said in page
    arguments = page.partition("## Arguments")[2].partition("##")[0]
    assert [row.split()[1] for row in arguments.splitlines()[4:] if row.startswith("|")] == ["learning_rate"]


def test_metadata_are_those_of_the_hub(run, report):
    card(run, report, repo_id="org/tkd-sst2", license="apache-2.0", language=["en", "de"])
    found = ModelCard.load(run / "README.md").data
    assert (found.library_name, found.pipeline_tag) == ("transformers", "text-classification")
    assert (found.license, found.language, found.model_name) == ("apache-2.0", ["en", "de"], "tkd-sst2")
    assert (found.datasets, found.metrics) == (["nyu-mll/glue"], ["accuracy"])
    assert found.tags == ["tkd", "knowledge-distillation"]
    # the Hub has no word for what a student is to its teacher
    assert found.base_model is None
    assert "base_model_relation" not in found
    (result,) = found.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "sst2", "validation")


def test_without_a_report_there_are_the_figures_of_the_run(run):
    page = card(run)
    assert headings(page)[1:3] == ["Results", "How it was made"]
    assert "| accuracy | 0.7500 |" in page
    assert "| answered as the teacher does | 0.8750 |" in page
    assert "Confidence" not in page
    assert ModelCard(page).data.eval_results[0].metric_value == 0.75
    assert "license" not in ModelCard(page).data.to_dict()


def test_without_a_record_little_is_known(tmp_path):
    page = card(run_folder(tmp_path / "x", None))
    assert headings(page) == ["How to load it", "Intended use and limits", "Citation"]
    assert ModelCard(page).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags", "widget"}
    assert "teacher" not in page
    assert "None" not in page


def test_the_report_stays_with_the_model(run, report, tmp_path):
    first = card(run, report)
    shutil.rmtree(report)
    assert card(run) == first
    assert [model["name"] for model in read_json(run / "report.json")["evaluation"]["models"]] == ["teacher", "student"]
    assert (run / "pictures" / "pareto.png").read_bytes() == b"picture"


@pytest.mark.parametrize("chosen", [{}, {"repo_id": "org/x", "license": "mit"}])
def test_the_same_record_gives_the_same_card(run, report, chosen):
    assert card(run, report, **chosen) == card(run, report, **chosen)


def test_what_people_wrote_stays(run, report):
    page = card(run, license="mit")
    mine = "## Whom to ask\n\nMe."
    page = page.replace("## How near", mine).replace("<!-- tkd-hf use", f"{mine}\n\n<!-- tkd-hf use")
    page = page.replace("0.7500", "0.9999").replace("- tkd\n", "- tkd\n- films\n").replace("license: mit", "license: x")
    page = page.replace("library_name", "thumbnail: a.png\nlibrary_name")
    (run / "README.md").write_text(page)
    page = card(run, report)
    assert page.count(mine) == 1
    assert page.index(mine) < page.index("## How to load it")
    assert "0.9999" not in page
    found = ModelCard(page).data
    assert (found.license, found.thumbnail, found.tags) == ("x", "a.png", ["tkd", "knowledge-distillation", "films"])
    assert card(run, license="mit", tags="toys") != page
    assert ModelCard.load(run / "README.md").data.license == "mit"
    assert ModelCard.load(run / "README.md").data.tags[2:] == ["films", "toys"]


def test_a_page_of_ones_own_comes_first(run):
    own = "# My model\n\nIt is mine.\n"
    (run / "README.md").write_text(own)
    page = card(run)
    text = ModelCard(page).text
    assert text.strip().startswith(own)
    assert "# student" not in page
    assert card(run) == page


def test_damaged_cards_are_refused(run):
    (run / "README.md").write_text("---\ntags: [a\n---\n")
    with pytest.raises(InputError, match="metadata of the card"):
        card(run)


def test_places_and_tokens_stay_at_home(tmp_path, monkeypatch):
    token = "hf_" + "aBcD" * 8
    monkeypatch.setenv("HF_TOKEN", token)
    secret = tmp_path / "secret-place"
    inputs = {"teacher": str(secret / "my-teacher"), "teacher_revision": "files-77", "task": "d.csv", "train": "1"}
    arguments = distilled().arguments | {"student": "nearby/base", "note": f"{token} in {secret}/x.csv"}
    before = [vars(distilled(inputs={"teacher": "runs/elsewhere", "teacher_revision": "files-78"}))]
    record = distilled(inputs=inputs, arguments=arguments, before=before)
    run = run_folder(secret / "run", record)
    page = card(run, report_folder(secret / "report", str(run)), repo_id="org/x")
    for canary in (token, "secret-place", "/home/someone", "nearby/base", "runs/elsewhere"):
        assert canary not in page
        assert canary not in (run / "report.json").read_text()
    assert "`my-teacher`, hash of its files `77`" in page
    assert "base_model" not in page


def test_a_folder_may_be_called_like_a_model_of_the_hub(tmp_path):
    run = run_folder(
        tmp_path / "x", StageRecord("finetune", {"model": "runs/teacher", "model_revision": "files-1"}, {})
    )
    page = card(run)
    assert "huggingface.co/runs" not in page
    assert "base_model" not in page
    named = ModelCard(card(run, base_model="org/base")).data
    assert (named.base_model, named["base_model_relation"]) == ("org/base", "finetune")
    write_record(run, distilled())
    named = ModelCard(card(run, base_model="org/base")).data
    assert (named.base_model, named.get("base_model_relation")) == ("org/base", None)


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
def test_what_a_model_is_to_its_parent(stage, config, adapter, relation):
    config = {"model_type": "tkd", "architectures": ["TKDForTokenClassification"], **config}
    found = Card("x", "org/x", config, StageRecord(stage, HUB, {}), adapter=adapter)
    metadata = ModelCard(found.render()).data
    assert (metadata.base_model, metadata["base_model_relation"]) == ("org/base", relation)
    assert metadata.pipeline_tag == "token-classification"
    assert metadata.library_name == ("peft" if adapter else "transformers")
    assert ("int8" in metadata.tags) == bool(config.get("quantization_config"))
    assert ('PeftModel.from_pretrained(base, "org/x")' in found.render()) == bool(adapter)


def test_what_peft_writes_is_no_word_of_people(tmp_path, tokenizer):
    """It fills a template, or our card, with the place of the base, whenever it saves."""
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


def test_an_adapter_loads_as_its_card_says(tmp_path, tokenizer, monkeypatch):
    """Beside a base of the name that the card gives it."""
    base = AutoModelForSequenceClassification.from_pretrained(run_folder(tmp_path / "base", None))
    add_adapters(base, LoraArguments(rank=2)).save_pretrained(tmp_path / "adapter")
    base.config.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    shown = re.findall(r"```python\n(.*?)```", card(tmp_path / "adapter"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(shown[0], names)
    assert type(names["model"].base_model.model).__name__ == "TKDForSequenceClassification"
    assert names["model"].config.id2label == {0: "negative", 1: "positive"}


def test_what_was_removed_is_counted(tmp_path):
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
    for said in (
        *("| 0 | 1 | 11 |", "| 1 | 0 | 1 |", "Removed whole: layers 2.", "| parameters | 2,000 → 1,000 |"),
        *("| zeros in layer | query | key |", "| 0 | 50.0% | 25.0% |", "| 1 | 75.0% |  |"),
        "100 → 40 tokens, those of the training texts (",
        "| teacher | itself, as it was |",
    ):
        assert said in page
    assert ModelCard(page).data.tags == ["tkd", "pruned", "sparse", "vocabulary-pruned"]
    record.inputs["unlabelled"] = "fingerprint"
    assert "tokens, those of the training and unlabelled texts (" in card(run_folder(tmp_path / "y", record))


def test_the_stages_before_are_told(tmp_path):
    first = run_folder(tmp_path / "first", distilled())
    record = StageRecord(
        "prune", {"model": str(first), "model_revision": "files-1"}, {}, before=previous_stages(str(first))
    )
    page = card(run_folder(tmp_path / "second", record))
    assert page.index("stage: distill") < page.index("0.9 × logits") < page.index("stage: prune")
    assert "| distill: learning_rate | 0.0003 |" in page
    assert "knowledge-distillation" in ModelCard(page).data.tags
    assert previous_stages(str(tmp_path)) == previous_stages("org/x") == []


def test_exports_are_shown_where_they_are(run):
    assert "onnxruntime" not in card(run)
    for name in ("onnx/model.onnx", "openvino/openvino_model.xml"):
        (run / name).parent.mkdir()
        (run / name).write_bytes(b"")
    page = card(run, repo_id="org/x")
    assert 'hf_hub_download("org/x", "onnx/model.onnx")' in page
    assert 'OVModelForSequenceClassification.from_pretrained("org/x", subfolder="openvino")' in page


def test_what_is_shown_is_the_quantized_export(run):
    """The one that commands load and reports measure, not the floats that it was made of."""
    (run / "onnx").mkdir()
    for name in ("model.onnx", "model_quantized.onnx"):
        (run / "onnx" / name).write_bytes(b"")
    assert 'hf_hub_download("org/x", "onnx/model_quantized.onnx")' in card(run, repo_id="org/x")


def test_a_model_for_another_runtime_alone(run):
    (run / "model.safetensors").unlink()
    (run / "openvino_model.xml").write_bytes(b"")
    config = read_json(run / "config.json") | {"quantization": {"backend": "openvino", "weights": "int8"}}
    (run / "config.json").write_text(json.dumps(config))
    write_record(run, StageRecord("quantize", HUB, {"backend": "openvino", "weights": "int8"}))
    page = card(run, repo_id="org/x")
    assert "pipeline" not in page.partition("## How to load it")[2]
    assert 'OVModelForSequenceClassification.from_pretrained("org/x")' in page
    assert "| quantization | openvino, int8 |" in page
    found = ModelCard(page).data
    assert (found["base_model_relation"], "int8" in found.tags) == ("quantized", True)


def test_the_examples_run(run, monkeypatch, tmp_path, capsys):
    """As they stand, from the folder that holds the repository's name."""
    page = card(run)
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    exec(shown[0], {})
    assert "score" in capsys.readouterr().out
    names = {}
    exec(shown[1], names)
    assert names["model"].config.num_labels == 2


def test_models_that_are_not_tkd(tmp_path):
    build_teacher((), problem_type="regression").save_pretrained(tmp_path / "bert")
    write_record(tmp_path / "bert", StageRecord("finetune", {**HUB, "task": "stsb"}, {}, {"pearson": 0.5}))
    page = card(tmp_path / "bert")
    assert "tkd_hf" not in page
    assert "trust_remote_code" not in page
    assert "scoring pairs of texts like those of stsb" in page
    assert '{"text": "The bakery opens at six.", "text_pair":' in page
    assert "Citation" not in headings(page)


def test_labels_break_no_table(tmp_path):
    page = card(run_folder(tmp_path / "x", None, labels=("a|b", "<!-- end of tkd-hf description -->")))
    assert card(tmp_path / "x") == page


def test_reports_of_others_are_refused(run, report, tmp_path):
    with pytest.raises(InputError, match=r"holds no report.json"):
        card(run, tmp_path)
    with pytest.raises(InputError, match=r"the report is of .*other, .*student, not of .*third"):
        card(run_folder(tmp_path / "third", None), report)
    write_record(run, distilled(finished="2026-01-03T00:00:00+00:00"))
    with pytest.raises(InputError, match="older than the model"):
        card(run, report)
    with pytest.raises(InputError, match="holds no model"):
        card(tmp_path)


def test_a_push_from_python_has_the_card(build, tmp_path):
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
    for said in (
        "1 × logits + 1 × hidden",
        "| temperature | 4 |",
        "`BertForSequenceClassification`, hash of its weights",
    ):
        assert said in page
    found = ModelCard(page).data
    assert (found.license, found.tags) == ("mit", ["tkd", "knowledge-distillation", "films"])
    assert record["inputs"]["train"]
    assert card(tmp_path / "run") == page


def test_figures_of_data_without_a_name(tmp_path):
    """As a trainer has them: they stand in the text, and the Hub's index of results takes none."""
    page = card(run_folder(tmp_path / "x", distilled(inputs={"train": "aaaa1111"})))
    assert "| accuracy | 0.7500 |" in page
    found = ModelCard(page).data
    assert (found.metrics, found.eval_results) == (["accuracy"], None)


def test_a_trainer_without_a_model_on_disk(build, tmp_path):
    """As in a push from a checkpoint."""
    trainer = build(cached=True)
    trainer.create_model_card()
    page = (tmp_path / "run" / "README.md").read_text()
    assert "teacher's answers" not in page
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "tkd"


def test_what_lies_there_loads(run):
    """The fixture is a run folder as commands leave it."""
    assert AutoModelForSequenceClassification.from_pretrained(run).config.num_labels == 2
    assert pipeline("text-classification", model=str(run))("good film")[0]["label"] in ("negative", "positive")
