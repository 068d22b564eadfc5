"""`tkd-hf push` with the unmodified huggingface_hub client, against the test Hub."""

import json
import re

import pytest

from ..factories import build_teacher, read_json
from .conftest import change_user_text
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
    """The name of a repository that only this test uses."""
    return f"org/{tmp_path.name}"


@pytest.fixture
def repo(hub, name):
    return lambda: hub.repos[name]


@pytest.fixture
def push(client, run_folder, name):
    return lambda *arguments, **kwargs: client("push", run_folder, "--repo-id", name, *arguments, **kwargs)


def test_push_makes_one_private_commit_and_a_tag(push, repo, hub, name):
    result = push("--tag", "v1", "--message", "Three layers")
    assert result.code == 0, result.err
    assert repo().private
    assert repo().history() == ["Three layers", "initial commit"]
    assert repo().resolve("v1") == repo().resolve("main")
    assert f"{hub.url}/{name}" in result.out
    assert f"private  9 in one commit  {repo().resolve('main')[:8]}       v1" in result.out
    assert f"next: tkd-hf verify {name}" in result.err
    assert "kernels" not in result.err  # bitsandbytes warns about them on some processors


def test_push_uploads_the_files_as_they_are_and_the_record_without_local_paths(push, repo, run_folder):
    assert push().code == 0
    files = repo().files()
    assert set(files) == PUSHED | {".gitattributes"}
    assert all(files[path] == (run_folder / path).read_bytes() for path in PUSHED - {"tkd_run.json"})
    record = json.loads(files["tkd_run.json"])
    assert record["inputs"]["teacher"] == "teacher"
    assert record["metrics"] == {"accuracy": 0.625}


def test_push_of_the_same_content_makes_no_commit_and_no_upload(push, repo, hub):
    assert push("--tag", "v1").code == 0
    result = push("--tag", "v1")
    assert (result.code, len(repo().history())) == (0, 2), result.err
    assert "none, so no commit" in result.out
    assert not any("storage" in request for request in requests_since(hub, "repos/create"))


def test_push_commits_only_changed_files_and_never_moves_a_tag(push, repo, run_folder, name):
    push("--tag", "v1")
    change_user_text(run_folder, "Small")
    result = push("--tag", "v1")
    assert result.code == 2
    assert f"{name} already has a tag v1 with other content; choose another tag" in result.err
    assert len(repo().history()) == 2
    result = push("--tag", "v2")
    assert "1 in one commit" in result.out
    assert b"Small" in repo().files("v2")["README.md"]
    assert b"Words of my own" in repo().files("v1")["README.md"]


def test_push_can_make_a_public_repository(push, repo):
    result = push("--public")
    assert result.code == 0, result.err
    assert not repo().private


def test_push_to_a_branch_leaves_main_as_it_is(push, repo, run_folder, name, hub):
    assert push().code == 0
    change_user_text(run_folder, "Branch")
    result = push("--revision", "try/one")
    assert result.code == 0, result.err
    assert f"{hub.url}/{name}/tree/try/one" in result.out
    assert f"next: tkd-hf verify {name}@try/one" in result.err
    assert b"Branch" in repo().files("try/one")["README.md"]
    assert b"Words of my own" in repo().files()["README.md"]


def test_a_pull_request_needs_no_write_access_and_leaves_main_as_it_is(push, repo, run_folder, name, hub):
    assert push("--public").code == 0
    change_user_text(run_folder, "Request")
    result = push("--create-pr", token="hf_stranger")
    assert result.code == 0, result.err
    assert f"{hub.url}/{name}/discussions/1" in result.out
    assert b"Request" in repo().files("refs/pr/1")["README.md"]
    assert b"Words of my own" in repo().files()["README.md"]


@pytest.mark.parametrize(
    ("option", "dropped"), [(("--tag", "v1"), "the tag v1"), (("--revision", "x"), "the revision x")]
)
def test_a_pull_request_takes_no_tag_and_no_revision(push, option, dropped):
    result = push("--create-pr", *option)
    assert result.code == 2
    assert f"drop {dropped}, or create_pr" in result.err


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, r"your token cannot see it \(401\); check the name, and log in with `hf auth login` or HF_TOKEN"),
        ("hf_wrong", r"your token cannot see it \(401\)"),
        ("hf_stranger", r"your token has no write access there \(403\)"),
    ],
)
def test_push_without_write_access_is_refused_and_creates_no_repository(push, hub, name, token, message):
    result = push(token=token)
    assert result.code == 2
    assert re.search(message, result.err)
    assert_one_line(result.err, "hf_wrong")
    assert name not in hub.repos


def test_private_repository_looks_missing_to_others(push, client, name, hub, repo):
    push()
    for token in (None, "hf_stranger"):
        assert push(token=token).code == 2
        result = client("verify", name, token=token)
        assert result.code == 2
        assert "the Hub has no such repository, or your token cannot see it" in result.err
    assert len(repo().history()) == 2


def test_push_retries_after_a_connection_is_cut_during_an_upload(push, repo, hub, name):
    hub.faults.append(Fault("PUT", "/storage/", "cut"))
    result = push()  # the client retries by itself
    assert result.code == 0, result.err
    assert len(repo().history()) == 2


@pytest.mark.parametrize(
    ("method", "path_part", "kind", "message"),
    [
        ("PUT", "/storage/", "cut", "the connection failed"),
        ("PUT", "/storage/", 500, "the Hub answered 500"),
        ("POST", "/objects/batch", 500, "the Hub answered 500 fault ordered by the test"),
        ("POST", "/commit/", 500, "the Hub answered 500 fault ordered by the test"),
        ("POST", "/commit/", "cut", "the connection failed"),
        ("POST", "/preupload/", 401, "the Hub has no such repository, or your token cannot see it (401)"),
    ],
)
def test_failed_push_leaves_the_branch_unchanged_and_can_be_repeated(
    push, repo, hub, name, run_folder, method, path_part, kind, message
):
    push()
    (run_folder / "config.json").write_text((run_folder / "config.json").read_text() + "\n")
    (run_folder / "model.safetensors").write_bytes(modified_weights(run_folder / "model.safetensors", len(hub.objects)))
    before = repo().files()
    hub.faults.append(Fault(method, path_part, kind, times=100))
    result = push()
    hub.faults.clear()
    assert result.code == 2
    assert message in result.err
    assert f"{name} is unchanged; run the same command to try again" in result.err
    assert_one_line(result.err, "/storage/")
    assert repo().files() == before
    assert push().code == 0
    assert repo().files()["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert len(repo().history()) == 3


def test_failed_tag_is_added_by_repeating_the_command(push, repo, hub, name):
    hub.faults.append(Fault("POST", "/tag/", 500))
    result = push("--tag", "v1")
    assert result.code == 2
    assert f"cannot tag {name}: the Hub answered 500" in result.err
    assert "its files were pushed; run the same command to add the tag" in result.err
    assert push("--tag", "v1").code == 0
    assert repo().resolve("v1") == repo().resolve("main")
    assert len(repo().history()) == 2


def test_push_does_not_overwrite_a_concurrent_commit(push, repo, hub, run_folder, name):
    push()
    theirs = Blob(b"mine")
    hub.before_request["/commit/"] = lambda: repo().move(
        "refs/heads/main", Commit(repo().commits[repo().resolve("main")].files | {"theirs.txt": theirs}, None, "theirs")
    )
    change_user_text(run_folder, "Small")
    result = push()
    assert result.code == 2
    assert "412 A commit has happened since" in result.err
    result = push()
    assert result.code == 0
    assert f"other files kept in {name}: theirs.txt" in result.err
    assert repo().files()["theirs.txt"] == b"mine"


def test_card_that_was_edited_on_the_hub_is_not_overwritten(push, repo, run_folder, name):
    push()
    card = repo().files()["README.md"]
    edited = {"README.md": Blob(card + b"\nA warning of my colleague.\n")}
    repo().move("refs/heads/main", Commit(repo().commits[repo().resolve("main")].files | edited, None, "edit"))
    change_user_text(run_folder, "Small")
    result = push()
    assert result.code == 2
    assert f"the card (README.md) of {name} was edited on the Hub" in result.err
    assert f"hf download {name} README.md --local-dir {run_folder}" in result.err
    assert_one_line(result.err)
    (run_folder / "README.md").write_bytes(repo().files()["README.md"])
    assert push().code == 0
    assert b"A warning of my colleague." in repo().files()["README.md"]


def test_hub_that_stays_silent_ends_the_push(push, client, hub, name):
    client.python("import tkd_hf.hub.push as push; push.REQUEST_SECONDS = 0.3")
    hub.faults.append(Fault("POST", "/repos/create", "silent", times=100))
    result = push()
    hub.faults.clear()
    client.python("import tkd_hf.hub.push as push; push.REQUEST_SECONDS = 20.0")
    assert result.code == 2
    assert f"cannot push to {name}: the connection failed" in result.err
    assert_one_line(result.err)


def test_commit_message_with_a_token_is_refused(push, hub, name):
    result = push("--message", "with hf_abcdefghijklmnop")
    assert result.code == 2
    assert "looks like a Hub token" in result.err
    assert "hf_abcdefghijklmnop" not in result.err
    assert name not in hub.repos


def test_dry_run_lists_files_and_card_without_network(push, hub, run_folder, tmp_path):
    before = len(hub.requests)
    result = push("--dry-run", "--json", tmp_path / "plan.json", token=None)
    assert result.code == 0, result.err
    assert len(hub.requests) == before
    sizes = read_json(tmp_path / "plan.json")["files"]
    assert set(sizes) == PUSHED
    assert sizes["model.safetensors"] == (run_folder / "model.safetensors").stat().st_size
    assert "Words of my own" in result.out
    assert re.search(rf"model.safetensors +{(run_folder / 'model.safetensors').stat().st_size}", result.out)


def test_invalid_card_metadata_is_refused_before_and_by_the_hub(push, hub, run_folder, name):
    card = (run_folder / "README.md").read_text()
    (run_folder / "README.md").write_text(card.replace("license: apache-2.0", "license: 5"))
    result = push()
    assert result.code == 2
    assert "license is 5, not a string" in result.err
    assert name not in hub.repos
    (run_folder / "README.md").write_text(card)
    hub.faults.append(Fault("POST", "/validate-yaml", 400))
    result = push()
    assert result.code == 2
    assert "Invalid metadata in README.md" in result.err
    assert_one_line(result.err)
    assert len(hub.repos[name].history()) == 1


def test_push_writes_a_missing_card(push, run_folder, repo, name):
    (run_folder / "README.md").unlink()
    result = push()
    assert result.code == 0, result.err
    assert f'from_pretrained("{name}"'.encode() in repo().files()["README.md"]


def test_push_refuses_pickles(push, run_folder, hub, name):
    (run_folder / "pytorch_model.bin").write_bytes(b"a pickle")
    result = push()
    assert result.code == 2
    assert "may be a pickle" in result.err
    assert name not in hub.repos


def test_push_uploads_exports_only_if_included(push, run_folder, repo):
    (run_folder / "onnx").mkdir()
    (run_folder / "onnx" / "model.onnx").write_bytes(b"\0" * 500_000)  # more than one part
    assert push().code == 0
    assert "onnx/model.onnx" not in repo().files()
    result = push("--include", "onnx")
    assert result.code == 0, result.err
    assert len(repo().files()["onnx/model.onnx"]) == 500_000
    result = push()
    assert "onnx/model.onnx" in repo().files()
    assert "other files kept" in result.err
    assert push("--include", "onnx,gguf").code == 2


def test_push_with_max_drop_refuses_a_model_that_lost_too_much(push, hub, name, run_folder, teacher_folder, sst2_dir):
    arguments = ("--task", "sst2", "--data-dir", sst2_dir, "--teacher", teacher_folder)
    result = push("--max-drop", "0.0", "--task", "sst2", "--data-dir", sst2_dir, "--teacher", run_folder)
    assert result.code == 0, result.err
    change_user_text(run_folder, "Worse")
    build_teacher(seed=3).save_pretrained(run_folder)
    result = push("--max-drop", "0.0", *arguments)
    assert result.code == 1
    assert "the gate was missed by" in result.err
    assert len(hub.repos[name].history()) == 2


@pytest.mark.parametrize("wrong", ["tiny", "org/tiny/more", "org/ti ny", "-/x"])
def test_push_refuses_malformed_repository_ids(client, run_folder, wrong):
    result = client("push", run_folder, "--repo-id", wrong)
    assert result.code == 2
    assert "is not a Hub id" in result.err
    assert_one_line(result.err)


def requests_since(hub, path_part: str) -> list[str]:
    """Return the requests since the last one whose path contains a part."""
    last = max(index for index, request in enumerate(hub.requests) if path_part in request)
    return hub.requests[last:]


def modified_weights(path, number: int) -> bytes:
    """Return content of the same size that no other test has uploaded."""
    return path.read_bytes()[:-4] + number.to_bytes(4, "little")


def assert_one_line(err: str, *hidden: str):
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("tkd-hf:")]
    assert [text for text in hidden if text in line] == []
