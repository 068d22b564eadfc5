"""`tkd-hf verify` against a Hub on loopback, and loading what was pushed where nothing of it is known."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from tkd_hf.adapters import LoraArguments, add_adapters, merge_adapter
from tkd_hf.errors import CardMismatch
from tkd_hf.hub.folder import SOURCE_FILES
from tkd_hf.stages.card import card
from tkd_hf.stages.run_folder import RunFolder, read_record
from tkd_hf.stages.verify import CheckedMetric, Verification, differing_numbers

from ..conftest import LABELS, TEXTS, build_tokenizer, read_json
from .conftest import Client, build_run
from .protocol import Fault
from .store import Blob, Commit


@pytest.fixture(scope="module")
def pushed(client, hub, tmp_path_factory):
    """A run that lies on the Hub as org/verified, version v1."""
    folder = build_run(tmp_path_factory.mktemp("pushed") / "run")
    done = client("push", folder, "--repo-id", "org/verified", "--tag", "v1")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def verify(client, pushed, sst2_dir):
    return lambda *words, **kwargs: client("verify", *words, "--data-dir", sst2_dir, **kwargs)


@pytest.fixture
def altered(hub, pushed):
    """Puts another file into the branch `false`."""
    repo = hub.repos["org/verified"]
    repo.refs.pop("refs/heads/false", None)

    def put(path: str, change, branch="false"):
        commit = repo.commits[repo.refs.get(f"refs/heads/{branch}") or repo.resolve("v1")]
        there = commit.files[path]
        content = change(there.content)
        lfs = hub.put(content) if there.sha256 else None
        repo.move(f"refs/heads/{branch}", type(commit)(commit.files | {path: Blob(content, lfs)}, None, "altered"))
        return f"org/verified@{branch}"

    return put


def test_a_true_card(verify, tmp_path):
    done = verify("org/verified@v1", "--json", tmp_path / "v.json")
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert "0.625     0.625  right" in done.out
    found = read_json(tmp_path / "v.json")
    assert found["files"] == 10
    assert found["loads"] == ["with tkd_hf", "with trust_remote_code=True"]
    assert found["figures"] == [{"metric": "accuracy", "card": 0.625, "measured": 0.625}]


def test_an_altered_figure_is_named_and_foreign_code_is_not_run(verify, altered):
    altered("README.md", lambda card: card.replace(b"value: 0.625", b"value: 0.875"))
    wrong = altered("modeling_tkd.py", lambda source: source + b"\nprint('I was run')\n")
    done = verify(wrong)
    assert done.code == 2
    assert "brings code that is not this package's: modeling_tkd.py; read it, and add --trust-remote-code" in done.err
    assert "I was run" not in done.out + done.err
    done = verify(wrong, "--trust-remote-code")
    assert done.code == 1
    assert f"the card of {wrong} is false: it says accuracy 0.875, but 0.6250 was measured" in done.err
    assert "0.875     0.625  wrong" in done.out


def test_the_tolerance():
    figures = [
        CheckedMetric("accuracy", 0.9, 0.8985),
        CheckedMetric("f1", 0.9, 0.95),
        CheckedMetric("charm", 1.0, None),
    ]
    found = Verification("m", "c", 1, "t", "s", 1, [], figures, tolerance=0.002)
    with pytest.raises(CardMismatch, match=r"the card of m is false: it says f1 0.9, but 0.9500 was measured$"):
        found.check()
    found.tolerance = 0.06
    found.check()


def test_a_figure_in_the_text_is_named(pushed, tmp_path):
    """Of what stands beside the card; names and people's words are no figures."""
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
    [wrong] = differing_numbers(folder, "org/name-2")
    assert wrong.startswith("0.9250 where its record says 0.6250 (")
    found = Verification("m", "c", 1, "t", "s", 1, [], [], 0.002, [wrong])
    with pytest.raises(CardMismatch, match=r"the card of m is false: it says 0.9250 where its record says 0.6250"):
        found.check()


def test_a_model_that_needs_the_package(verify, altered):
    done = verify(altered("config.json", lambda config: config.replace(b'"auto_map"', b'"no_map"')))
    assert done.code == 1
    assert "org/verified does not load without tkd_hf (trust_remote_code=True): " in done.err


def test_bytes_that_are_not_the_commits(verify, hub):
    weights = hub.repos["org/verified"].files("v1")["model.safetensors"]
    oid = next(oid for oid, content in hub.objects.items() if content == weights)
    hub.objects[oid] = weights[:-1] + bytes([weights[-1] ^ 1])
    try:
        done = verify("org/verified@v1")
    finally:
        hub.objects[oid] = weights
    assert done.code == 1
    assert "org/verified@v1 is not what its commit" in done.err
    assert "model.safetensors" in done.err
    assert f"instead of {oid[:8]}" in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: b"no metadata", "the card's metadata (model-index) has no figures to verify"),
        (lambda card: card.replace(b"library_name:", b"library_name: ["), "the metadata of the card cannot be read"),
        (lambda card: card.replace(b"accuracy", b"charm"), "says charm of sst2, and of that accuracy can be measured"),
        (lambda card: card.replace(b"name: sst2", b"name: sst9"), "has figures for sst9; name the data with"),
    ],
)
def test_cards_that_claim_nothing(verify, altered, change, message):
    done = verify(altered("README.md", change))
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_other_bad_input(verify, hub):
    for name, message in (
        ("org/nothing", "the Hub finds no such repository, or does not know you"),
        ("org/verified@v9", "there is no such revision (404)"),
        ("verified", "'verified' is no Hub id: write it with its owner, as in org/verified"),
    ):
        done = verify(name)
        assert done.code == 2
        assert message in done.err
        assert "Traceback" not in done.err
    hub.faults.append(Fault("GET", "/storage/", 500, times=100))
    done = verify("org/verified@v1")
    hub.faults.clear()
    assert done.code == 2
    assert "cannot fetch org/verified@v1: the Hub answered 500" in done.err


def test_a_full_disk(verify):
    done = verify("org/verified@v1", fsize=20_000)  # the weights are larger
    assert done.code == 2
    assert "cannot fetch org/verified@v1: " in done.err
    assert "File too large" in done.err
    assert "Traceback" not in done.err


def test_an_adapter(hub, client, verify, tmp_path, teacher, tokenizer):
    """Pushed without its base, which lies there, too; what stands in its card is measured of both."""
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
    accuracy = measured_on(merged, tokenizer)
    run.finish({"accuracy": accuracy})
    card(run.path, license="apache-2.0")
    done = client("push", run.path, "--repo-id", "org/adapter")
    assert done.code == 0, done.err
    metadata = yaml.safe_load(hub.repos["org/adapter"].files()["README.md"].decode().split("---")[1])
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("org/base", "adapter")
    done = verify("org/adapter", "--json", tmp_path / "v.json")
    assert done.code == 0, done.err
    found = read_json(tmp_path / "v.json")
    assert found["figures"] == [{"metric": "accuracy", "card": accuracy, "measured": accuracy}]
    assert found["loads"] == ["with tkd_hf", "with trust_remote_code=True"]
    repo = hub.repos["org/adapter"]
    there = repo.commits[repo.resolve("main")].files
    for base in (b"null", b'"/home/ann/base"'):
        lost = there["adapter_config.json"].content.replace(b'"org/base"', base)
        repo.move("refs/heads/lost", Commit(there | {"adapter_config.json": Blob(lost)}, None, "lost"))
        done = verify("org/adapter@lost")
        assert done.code == 2
        assert "the base of the adapter cannot be fetched (" in done.err
        assert "Traceback" not in done.err


def measured_on(model, tokenizer):
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
[answer] = classify("a very fine story")
assert "tkd_hf" not in sys.modules
print(json.dumps([type(model).__name__, type(encoder).__name__, answer, refused]))
"""


def test_it_loads_where_nothing_of_it_is_known(hub, pushed, tmp_path):
    """In a fresh process and cache, without the package, where a first download met a full disk."""
    client = Client(hub, tmp_path, package=False)
    full = client.python("import transformers; transformers.AutoModel.from_pretrained('org/verified')", fsize=5_000)
    assert full.code == -1
    done = client.python(LOAD)
    client.close()
    assert done.code == 0, done.err
    model, encoder, answer, refused = json.loads(done.out.splitlines()[-1])
    assert (model, encoder) == ("TKDForSequenceClassification", "TKDModel")
    assert "trust_remote_code=True" in refused
    from tkd_hf import TKDForSequenceClassification

    own = TKDForSequenceClassification.from_pretrained(pushed).eval()
    with torch.no_grad():
        logits = own(**build_tokenizer()("a very fine story", return_tensors="pt")).logits
    assert answer["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
    assert answer["label"] == own.config.id2label[logits.argmax().item()]
    assert "hf_writer" not in client.said
