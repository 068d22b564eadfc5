"""`tkd-hf verify` against the test Hub, and loading a pushed model without tkd-hf."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from tkd_hf.cards.generate import card
from tkd_hf.commands.verify import CheckedMetric, Verification, differing_numbers
from tkd_hf.core.errors import CardMismatch, InputError
from tkd_hf.hub.folder import SOURCE_FILES
from tkd_hf.models.arguments import LoraArguments
from tkd_hf.models.lora import add_adapters, merge_adapter
from tkd_hf.quantization import load_backend
from tkd_hf.records.run_folder import RunFolder, read_record

from ..factories import LABELS, TEXTS, build_tokenizer, read_json
from .conftest import Client, build_run
from .protocol import Fault
from .store import Blob, Commit


@pytest.fixture(scope="module")
def pushed(client, hub, tmp_path_factory):
    """A run folder that was pushed as org/verified with the tag v1."""
    folder = build_run(tmp_path_factory.mktemp("pushed") / "run")
    result = client("push", folder, "--repo-id", "org/verified", "--tag", "v1")
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def verify(client, pushed, sst2_dir):
    return lambda *arguments, **kwargs: client("verify", *arguments, "--data-dir", sst2_dir, **kwargs)


@pytest.fixture
def altered(hub, pushed):
    """Return a function that changes a file on a branch (`altered`)."""
    repo = hub.repos["org/verified"]
    repo.refs.pop("refs/heads/altered", None)

    def put(path: str, change, branch="altered"):
        commit = repo.commits[repo.refs.get(f"refs/heads/{branch}") or repo.resolve("v1")]
        blob = commit.files[path]
        content = change(blob.content)
        lfs = hub.put(content) if blob.sha256 else None
        repo.move(f"refs/heads/{branch}", type(commit)(commit.files | {path: Blob(content, lfs)}, None, "altered"))
        return f"org/verified@{branch}"

    return put


def test_verify_accepts_a_correct_card(verify, tmp_path):
    result = verify("org/verified@v1", "--json", tmp_path / "v.json")
    assert result.code == 0, result.err
    assert "accuracy" in result.out
    assert "0.625     0.625  right" in result.out
    content = read_json(tmp_path / "v.json")
    assert content["files"] == 10
    assert content["loads"] == ["with tkd_hf", "with trust_remote_code=True"]
    assert content["figures"] == [{"metric": "accuracy", "card": 0.625, "measured": 0.625}]


@pytest.mark.slow
def test_verify_names_a_wrong_metric_and_does_not_run_untrusted_code(verify, altered):
    altered("README.md", lambda card: card.replace(b"value: 0.625", b"value: 0.875"))
    wrong = altered("modeling_tkd.py", lambda source: source + b"\nprint('I was run')\n")
    result = verify(wrong)
    assert result.code == 2
    assert (
        "contains source files that differ from this package's: modeling_tkd.py; read them, and add --trust-remote-code"
        in result.err
    )
    assert "I was run" not in result.out + result.err
    result = verify(wrong, "--trust-remote-code")
    assert result.code == 1
    assert f"the card of {wrong} is wrong: it says accuracy 0.875, but 0.6250 was measured" in result.err
    assert "0.875     0.625  wrong" in result.out


def test_metrics_outside_the_tolerance_are_named():
    figures = [
        CheckedMetric("accuracy", 0.9, 0.8985),
        CheckedMetric("f1", 0.9, 0.95),
        CheckedMetric("charm", 1.0, None),
    ]
    verification = Verification("m", "c", 1, "t", "s", 1, [], figures, tolerance=0.002)
    with pytest.raises(CardMismatch, match=r"the card of m is wrong: it says f1 0.9, but 0.9500 was measured$"):
        verification.check()
    verification.tolerance = 0.06
    verification.check()


@pytest.mark.parametrize(
    ("figure", "tolerance"),
    [
        (CheckedMetric("accuracy", float("nan"), 0.9), 0.002),
        (CheckedMetric("accuracy", 0.9, float("nan")), 0.002),
        (CheckedMetric("accuracy", float("inf"), float("inf")), 0.002),
        (CheckedMetric("charm", float("nan"), None), 0.002),
        (CheckedMetric("accuracy", 0.9, 0.9), float("nan")),
    ],
)
def test_metrics_that_are_not_finite_are_never_right(figure, tolerance):
    verification = Verification("m", "c", 1, "t", "s", 1, [], [figure], tolerance)
    with pytest.raises(CardMismatch, match=f"it says {figure.metric} {figure.card:g}, but "):
        verification.check()


def test_verify_names_a_wrong_number_in_the_text_of_the_card(pushed, tmp_path):
    """Numbers in names and in the user's text do not count."""
    folder = tmp_path / "copy"
    shutil.copytree(pushed, folder)
    assert differing_numbers(folder, "org/name-2") == []
    path = folder / "README.md"
    card = path.read_text()
    path.write_text(card.replace("Words of my own", "My 3 words"))
    assert differing_numbers(folder, "org/name-2") == []
    head, mark, text = card.partition("\n---\n")
    assert "0.625" in text
    path.write_text(head + mark + text.replace("0.625", "0.925", 1))
    [difference] = differing_numbers(folder, "org/name-2")
    assert difference.startswith("0.9250, but its record says 0.6250 (")
    verification = Verification("m", "c", 1, "t", "s", 1, [], [], 0.002, [difference])
    with pytest.raises(CardMismatch, match=r"the card of m is wrong: it says 0.9250, but its record says 0.6250"):
        verification.check()


def test_verify_refuses_a_model_that_needs_the_package(verify, altered):
    result = verify(altered("config.json", lambda config: config.replace(b'"auto_map"', b'"no_map"')))
    assert result.code == 1
    assert "org/verified does not load without tkd_hf (trust_remote_code=True): " in result.err


def test_verify_names_a_file_that_differs_from_its_commit(verify, hub):
    weights = hub.repos["org/verified"].files("v1")["model.safetensors"]
    oid = next(oid for oid, content in hub.objects.items() if content == weights)
    hub.objects[oid] = weights[:-1] + bytes([weights[-1] ^ 1])
    try:
        result = verify("org/verified@v1")
    finally:
        hub.objects[oid] = weights
    assert result.code == 1
    assert "the files of org/verified@v1 differ from its commit" in result.err
    assert "model.safetensors" in result.err
    assert f"instead of {oid[:8]}" in result.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: b"no metadata", "the card's metadata (model-index) contains no results to verify"),
        (lambda card: card.replace(b"library_name:", b"library_name: ["), "the metadata of the card cannot be read"),
        (lambda card: card.replace(b"accuracy", b"charm"), "states charm for sst2, but only accuracy can be measured"),
        (lambda card: card.replace(b"name: sst2", b"name: sst9"), "has metrics for sst9; name the data with"),
        (lambda card: card.replace(b"value: 0.625", b"value: high"), "contains accuracy='high', which are not numbers"),
    ],
)
def test_verify_refuses_cards_without_results_for_the_data(verify, altered, change, message):
    result = verify(altered("README.md", change))
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_verify_reports_missing_repositories_revisions_and_server_errors(verify, hub):
    for name, message in (
        ("org/nothing", "the Hub has no such repository, or your token cannot see it"),
        ("org/verified@v9", "the repository has no such revision (404)"),
        ("verified", "'verified' is not a Hub id: add its owner, as in org/verified"),
    ):
        result = verify(name)
        assert result.code == 2
        assert message in result.err
        assert "Traceback" not in result.err
    hub.faults.append(Fault("GET", "/storage/", 500, times=100))
    result = verify("org/verified@v1")
    hub.faults.clear()
    assert result.code == 2
    assert "cannot fetch org/verified@v1: the Hub answered 500" in result.err


def test_verify_reports_a_full_disk(verify):
    result = verify("org/verified@v1", fsize=20_000)  # the weights are larger
    assert result.code == 2
    assert "cannot fetch org/verified@v1: " in result.err
    assert "File too large" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_verify_evaluates_an_adapter_merged_with_its_base(hub, client, verify, tmp_path, teacher, tokenizer):
    """The base model is a repository of its own; the card's metrics are those of the merged model."""
    base = build_run(tmp_path / "base")
    assert client("push", base, "--repo-id", "org/base").code == 0
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = add_adapters(model, LoraArguments(rank=2, adapter_only=True))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.5)
    run = RunFolder(tmp_path / "adapter", read_record(base))
    run.start()
    model.config.save_pretrained(run.path)
    for source in SOURCE_FILES:
        shutil.copy(base / source, run.path)
    tokenizer.save_pretrained(run.path)
    adapted.peft_config["default"].base_model_name_or_path = "org/base"
    adapted.save_pretrained(run.path)
    merged = merge_adapter(run.path, tmp_path / "merged", base=str(base))
    accuracy = accuracy_on_texts(merged, tokenizer)
    run.finish({"accuracy": accuracy})
    card(run.path, license="apache-2.0")
    result = client("push", run.path, "--repo-id", "org/adapter")
    assert result.code == 0, result.err
    metadata = yaml.safe_load(hub.repos["org/adapter"].files()["README.md"].decode().split("---")[1])
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("org/base", "adapter")
    result = verify("org/adapter", "--json", tmp_path / "v.json")
    assert result.code == 0, result.err
    content = read_json(tmp_path / "v.json")
    assert content["figures"] == [{"metric": "accuracy", "card": accuracy, "measured": accuracy}]
    assert content["loads"] == ["with tkd_hf", "with trust_remote_code=True"]
    repo = hub.repos["org/adapter"]
    files = repo.commits[repo.resolve("main")].files
    for base in (b"null", b'"/home/ann/base"'):
        config = files["adapter_config.json"].content.replace(b'"org/base"', base)
        repo.move("refs/heads/lost", Commit(files | {"adapter_config.json": Blob(config)}, None, "lost"))
        result = verify("org/adapter@lost")
        assert result.code == 2
        assert "the base model of the adapter cannot be fetched (" in result.err
        assert "Traceback" not in result.err


def accuracy_on_texts(model, tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return (model(**batch).logits.argmax(-1) == torch.tensor(LABELS)).float().mean().item()


LOAD = """
import json, sys
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

name, trusted = "org/verified", {"trust_remote_code": True}
try:
    AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=False)
except ValueError as error:
    refused = str(error)
model = AutoModelForSequenceClassification.from_pretrained(name, **trusted)
encoder = AutoModel.from_pretrained(name, revision="v1", **trusted)
classify = pipeline("text-classification", name, **trusted)
[prediction] = classify("a very fine story")
assert "tkd_hf" not in sys.modules
print(json.dumps([type(model).__name__, type(encoder).__name__, prediction, refused]))
"""


@pytest.mark.slow
def test_pushed_model_loads_without_the_package(hub, pushed, tmp_path):
    """In a fresh process and cache, after a first download that failed because the disk was full."""
    client = Client(hub, tmp_path, package=False)
    full_disk = client.python(
        "import transformers; transformers.AutoModel.from_pretrained('org/verified')", fsize=5_000
    )
    assert full_disk.code == -1
    result = client.python(LOAD)
    client.close()
    assert result.code == 0, result.err
    model, encoder, prediction, refused = json.loads(result.out.splitlines()[-1])
    assert (model, encoder) == ("TKDForSequenceClassification", "TKDModel")
    assert "trust_remote_code=True" in refused
    from tkd_hf import TKDForSequenceClassification

    expected = TKDForSequenceClassification.from_pretrained(pushed).eval()
    with torch.no_grad():
        logits = expected(**build_tokenizer()("a very fine story", return_tensors="pt")).logits
    assert prediction["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
    assert prediction["label"] == expected.config.id2label[logits.argmax().item()]
    assert "hf_writer" not in client.output


WEIGHT_FILES = {
    "bitsandbytes": "model.safetensors",
    "quanto": "model.safetensors",
    "onnx": "onnx/model.onnx",
    "openvino": "openvino_model.bin",
}


@pytest.fixture(scope="module")
def parent(client, tmp_path_factory):
    folder = build_run(tmp_path_factory.mktemp("parent") / "run")
    result = client("push", folder, "--repo-id", "org/parent")
    assert result.code == 0, result.err
    return "org/parent"


@pytest.mark.slow
@pytest.mark.parametrize("backend", WEIGHT_FILES)
def test_quantized_model_is_pushed_with_its_parent_and_verified(client, hub, parent, sst2_dir, tmp_path, backend):
    """Quantize a model from the Hub, push the result, and verify it."""
    try:
        load_backend(backend)
    except InputError as error:
        pytest.skip(str(error))
    folder, name = tmp_path / "run", f"org/{backend}"
    arguments = ("--backend", backend, "--output-dir", folder, "--task", "sst2", "--data-dir", sst2_dir)
    result = client("quantize", parent, *arguments)
    assert result.code == 0, result.err
    result = client("push", folder, "--repo-id", name, *(("--include", backend) if backend == "onnx" else ()))
    assert result.code == 0, result.err
    files = hub.repos[name].files()
    assert WEIGHT_FILES[backend] in files
    metadata = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (metadata["base_model"], metadata["base_model_relation"]) == (parent, "quantized")
    result = client("verify", name, "--data-dir", sst2_dir, "--json", tmp_path / "v.json")
    assert result.code == 0, result.err
    assert read_json(tmp_path / "v.json")["files"] == len(files)
