"""The same over xet, which huggingface_hub takes for large files where hf_xet is installed."""

import pytest

from .conftest import Client, build_run
from .server import Hub
from .xet import XetStorage


pytest.importorskip("hf_xet", reason="hf_xet is not installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with Hub(XetStorage(f"local://{tmp_path_factory.mktemp('cas')}")) as server:
        yield server
    assert server.failures == []


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """Does not try long where nobody answers."""
    patience = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    found = Client(hub, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_XET="0", **patience)
    yield found
    found.close()
    assert "hf_writer" not in found.said


def test_there_and_back(hub, client, run_folder, sst2_dir):
    hub.xet.expect(run_folder / "model.safetensors")
    done = client("push", run_folder, "--repo-id", "org/xet", "--tag", "v1")
    assert done.code == 0, done.err
    assert hub.repos["org/xet"].files()["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    done = client("push", run_folder, "--repo-id", "org/xet", "--tag", "v1")
    assert (done.code, len(hub.repos["org/xet"].history())) == (0, 2), done.err
    done = client("verify", "org/xet@v1", "--data-dir", sst2_dir)
    assert done.code == 0, done.err
    assert not any("/storage/" in request or "/objects/" in request for request in hub.requests)


def test_a_storage_that_cannot_be_reached(hub, client, tmp_path, monkeypatch):
    """Neither where nobody answers, nor where the Hub has no such thing."""
    folder = build_run(tmp_path / "run")
    for number, storage in enumerate((XetStorage("http://127.0.0.1:9"), None)):
        monkeypatch.setattr(hub, "xet", storage)
        name = f"org/far-{number}"
        done = client("push", folder, "--repo-id", name)
        assert done.code == 2
        assert f"cannot push to {name}: xet's storage was not reached (" in done.err
        assert f"HF_HUB_DISABLE_XET=1 goes without xet; {name} is as it was before" in done.err
        assert "Traceback" not in done.err
        assert hub.repos[name].history() == ["initial commit"]


def test_a_download_from_a_storage_that_cannot_be_reached(hub, client, run_folder, sst2_dir, monkeypatch):
    hub.xet.expect(run_folder / "model.safetensors")
    assert client("push", run_folder, "--repo-id", "org/gone").code == 0
    monkeypatch.setattr(hub.xet, "url", "http://127.0.0.1:9")
    done = client("verify", "org/gone", "--data-dir", sst2_dir)
    assert done.code == 2
    assert "cannot fetch org/gone: xet's storage was not reached (" in done.err
    assert "HF_HUB_DISABLE_XET=1 goes without xet" in done.err
    assert "Traceback" not in done.err
