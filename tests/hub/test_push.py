"""`tkd-hf push` with the unmodified client against a Hub on loopback."""

import json
import re

import pytest

from ..conftest import build_teacher, read_json
from .conftest import reword
from .protocol import Fault
from .store import Blob, Commit


PUSHED = {
    "README.md",
    "config.json",
    "configuration_tkd.py",
    "model.safetensors",
    "layers_tkd.py",
    "modeling_tkd.py",
    "tkd_run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def name(tmp_path):
    """A repository of the test's own."""
    return f"org/{tmp_path.name}"


@pytest.fixture
def repo(hub, name):
    return lambda: hub.repos[name]


@pytest.fixture
def push(client, run_folder, name):
    return lambda *words, **kwargs: client("push", run_folder, "--repo-id", name, *words, **kwargs)


def test_a_run_is_one_commit(push, repo, hub, run_folder, name):
    done = push("--tag", "v1", "--message", "Three layers")
    assert done.code == 0, done.err
    assert repo().private
    assert repo().history() == ["Three layers", "initial commit"]
    assert repo().resolve("v1") == repo().resolve("main")
    files = repo().files()
    assert set(files) == PUSHED | {".gitattributes"}
    assert all(files[path] == (run_folder / path).read_bytes() for path in PUSHED - {"tkd_run.json"})
    record = json.loads(files["tkd_run.json"])
    assert record["inputs"]["teacher"] == "teacher"  # and not where it is on this machine
    assert record["metrics"] == {"accuracy": 0.625}
    assert f"{hub.url}/{name}" in done.out
    assert f"private  9 in one commit  {repo().resolve('main')[:8]}       v1" in done.out
    assert f"next: tkd-hf verify {name}" in done.err
    assert "kernels" not in done.err  # a warning of bitsandbytes, on some processors


def test_the_same_content_makes_no_commit(push, repo, hub):
    assert push("--tag", "v1").code == 0
    done = push("--tag", "v1")
    assert (done.code, len(repo().history())) == (0, 2), done.err
    assert "none, so no commit" in done.out
    assert not any("storage" in request for request in after(hub, "repos/create"))


def test_only_what_changed_is_sent(push, repo, run_folder, name):
    push("--tag", "v1")
    reword(run_folder, "Small")
    done = push("--tag", "v1")
    assert done.code == 2
    assert f"{name} has a version v1 with other content; choose another tag" in done.err
    assert len(repo().history()) == 2
    done = push("--tag", "v2")
    assert "1 in one commit" in done.out
    assert b"Small" in repo().files("v2")["README.md"]
    assert b"Words of my own" in repo().files("v1")["README.md"]


def test_public_branch_and_request(push, repo, run_folder, name, hub):
    done = push("--public")
    assert done.code == 0, done.err
    assert not repo().private
    reword(run_folder, "Branch")
    done = push("--revision", "try/one")
    assert done.code == 0, done.err
    assert f"{hub.url}/{name}/tree/try/one" in done.out
    assert f"next: tkd-hf verify {name}@try/one" in done.err
    assert b"Branch" in repo().files("try/one")["README.md"]
    assert b"Words of my own" in repo().files()["README.md"]
    reword(run_folder, "Request")
    done = push("--create-pr", token="hf_stranger")  # who may not write, but may propose
    assert done.code == 0, done.err
    assert f"{hub.url}/{name}/discussions/1" in done.out
    assert b"Request" in repo().files("refs/pr/1")["README.md"]
    assert b"Words of my own" in repo().files()["README.md"]
    for words, dropped in ((("--tag", "v1"), "the tag v1"), (("--revision", "x"), "the revision x")):
        done = push("--create-pr", *words)
        assert done.code == 2
        assert f"drop {dropped}, or create_pr" in done.err


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, r"does not know you \(401\); check the name, and log in with `hf auth login` or HF_TOKEN"),
        ("hf_wrong", r"does not know you \(401\)"),
        ("hf_stranger", r"your token may not write there \(403\)"),
    ],
)
def test_who_may_not_write(push, hub, name, token, message):
    done = push(token=token)
    assert done.code == 2
    assert re.search(message, done.err)
    assert_one_line(done.err, "hf_wrong")
    assert name not in hub.repos


def test_a_private_repository_is_hidden_from_others(push, client, name, hub, repo):
    push()
    for token in (None, "hf_stranger"):
        assert push(token=token).code == 2
        done = client("verify", name, token=token)
        assert done.code == 2
        assert "the Hub finds no such repository, or does not know you" in done.err
    assert len(repo().history()) == 2


def test_a_connection_cut_in_mid_upload(push, repo, hub, name):
    hub.faults.append(Fault("PUT", "/storage/", "cut"))
    done = push()  # the client tries again by itself
    assert done.code == 0, done.err
    assert len(repo().history()) == 2


@pytest.mark.parametrize(
    ("method", "place", "kind", "message"),
    [
        ("PUT", "/storage/", "cut", "the connection failed"),
        ("PUT", "/storage/", 500, "the Hub answered 500"),
        ("POST", "/objects/batch", 500, "the Hub answered 500 trouble that was ordered"),
        ("POST", "/commit/", 500, "the Hub answered 500 trouble that was ordered"),
        ("POST", "/commit/", "cut", "the connection failed"),
        ("POST", "/preupload/", 401, "the Hub finds no such repository, or does not know you (401)"),
    ],
)
def test_what_fails_leaves_the_branch_and_can_be_repeated(
    push, repo, hub, name, run_folder, method, place, kind, message
):
    push()
    (run_folder / "config.json").write_text((run_folder / "config.json").read_text() + "\n")
    (run_folder / "model.safetensors").write_bytes(other_weights(run_folder / "model.safetensors", len(hub.objects)))
    before = repo().files()
    hub.faults.append(Fault(method, place, kind, times=100))
    done = push()
    hub.faults.clear()
    assert done.code == 2
    assert message in done.err
    assert f"{name} is as it was before; the same command tries it again" in done.err
    assert_one_line(done.err, "/storage/")
    assert repo().files() == before
    assert push().code == 0
    assert repo().files()["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert len(repo().history()) == 3


def test_a_tag_that_fails_is_set_by_the_same_command(push, repo, hub, name):
    hub.faults.append(Fault("POST", "/tag/", 500))
    done = push("--tag", "v1")
    assert done.code == 2
    assert f"cannot tag {name}: the Hub answered 500" in done.err
    assert "its files were pushed; the same command tags them" in done.err
    assert push("--tag", "v1").code == 0
    assert repo().resolve("v1") == repo().resolve("main")
    assert len(repo().history()) == 2


def test_somebody_elses_commit_is_not_undone(push, repo, hub, run_folder, name):
    push()
    theirs = Blob(b"mine")
    hub.before["/commit/"] = lambda: repo().move(
        "refs/heads/main", Commit(repo().commits[repo().resolve("main")].files | {"theirs.txt": theirs}, None, "theirs")
    )
    reword(run_folder, "Small")
    done = push()
    assert done.code == 2
    assert "412 A commit has happened since" in done.err
    done = push()
    assert done.code == 0
    assert f"other files kept in {name}: theirs.txt" in done.err
    assert repo().files()["theirs.txt"] == b"mine"


def test_a_dry_run_touches_no_network(push, hub, run_folder, tmp_path):
    before = len(hub.requests)
    done = push("--dry-run", "--json", tmp_path / "plan.json", token=None)
    assert done.code == 0, done.err
    assert len(hub.requests) == before
    sizes = read_json(tmp_path / "plan.json")["files"]
    assert set(sizes) == PUSHED
    assert sizes["model.safetensors"] == (run_folder / "model.safetensors").stat().st_size
    assert "Words of my own" in done.out
    assert re.search(rf"model.safetensors +{(run_folder / 'model.safetensors').stat().st_size}", done.out)


def test_a_card_that_the_hub_would_refuse(push, hub, run_folder, name):
    card = (run_folder / "README.md").read_text()
    (run_folder / "README.md").write_text(card.replace("license: apache-2.0", "license: 5"))
    done = push()
    assert done.code == 2
    assert "license is 5, not a text" in done.err
    assert name not in hub.repos
    (run_folder / "README.md").write_text(card)
    hub.faults.append(Fault("POST", "/validate-yaml", 400))
    done = push()
    assert done.code == 2
    assert "Invalid metadata in README.md" in done.err
    assert_one_line(done.err)
    assert len(hub.repos[name].history()) == 1


def test_a_run_without_a_card_gets_one(push, run_folder, repo, name):
    (run_folder / "README.md").unlink()
    done = push()
    assert done.code == 0, done.err
    assert f'from_pretrained("{name}"'.encode() in repo().files()["README.md"]


def test_pickles_are_refused(push, run_folder, hub, name):
    (run_folder / "pytorch_model.bin").write_bytes(b"a pickle")
    done = push()
    assert done.code == 2
    assert "may be a pickle" in done.err
    assert name not in hub.repos


def test_exports_go_along_when_asked_for(push, run_folder, repo):
    (run_folder / "onnx").mkdir()
    (run_folder / "onnx" / "model.onnx").write_bytes(b"\0" * 500_000)  # in three parts
    assert push().code == 0
    assert "onnx/model.onnx" not in repo().files()
    done = push("--include", "onnx")
    assert done.code == 0, done.err
    assert len(repo().files()["onnx/model.onnx"]) == 500_000
    done = push()
    assert "onnx/model.onnx" in repo().files()
    assert "other files kept" in done.err
    assert push("--include", "onnx,gguf").code == 2


def test_the_gate(push, hub, name, run_folder, teacher_folder, sst2_dir):
    words = ("--task", "sst2", "--data-dir", sst2_dir, "--teacher", teacher_folder)
    done = push("--max-drop", "0.0", "--task", "sst2", "--data-dir", sst2_dir, "--teacher", run_folder)
    assert done.code == 0, done.err
    reword(run_folder, "Worse")
    assert push("--max-drop", "0.1").code == 2
    build_teacher(seed=3).save_pretrained(run_folder)
    done = push("--max-drop", "0.0", *words)
    assert done.code == 1
    assert "the gate was missed by" in done.err
    assert len(hub.repos[name].history()) == 2


@pytest.mark.parametrize("wrong", ["tiny", "org/tiny/more", "org/ti ny", "-/x"])
def test_names_that_are_none(client, run_folder, wrong):
    done = client("push", run_folder, "--repo-id", wrong)
    assert done.code == 2
    assert "is no Hub id" in done.err
    assert_one_line(done.err)


def after(hub, place: str) -> list[str]:
    """The requests since the last one for a place."""
    last = max(number for number, request in enumerate(hub.requests) if place in request)
    return hub.requests[last:]


def other_weights(path, number: int) -> bytes:
    """A file of the same size that no other test has sent."""
    return path.read_bytes()[:-4] + number.to_bytes(4, "little")


def assert_one_line(err: str, *hidden: str):
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("tkd-hf:")]
    assert [text for text in hidden if text in line] == []
