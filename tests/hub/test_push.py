"""`tkd-hf push` with the unmodified client against a Hub on loopback."""

import pytest

from .server import Fault


PUSHED = {
    "README.md",
    "config.json",
    "configuration_tkd.py",
    "model.safetensors",
    "modeling_tkd.py",
    "tkd_run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def name(request):
    """A repository of the test's own."""
    return f"org/{request.node.name.replace('[', '-').strip(']')}"[:60]


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
    assert all(files[path] == (run_folder / path).read_bytes() for path in PUSHED)
    assert f"{hub.url}/{name}" in done.out
    assert f"8 in one commit  {repo().resolve('main')[:8]}       v1" in done.out
    assert f"next: tkd-hf verify {name}" in done.err
