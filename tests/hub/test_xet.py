"""Push and verify with xet, which huggingface_hub uses for large files if hf_xet is installed."""

import pytest

from .conftest import Client, build_run
from .server import Hub
from .store import XetStorage


pytest.importorskip("hf_xet", reason="hf_xet is not installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with Hub(XetStorage(f"local://{tmp_path_factory.mktemp('cas')}")) as server:
        yield server
    assert server.failures == []


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """A client that gives up quickly if the storage does not respond."""
    short_retries = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    process = Client(hub, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_XET="0", **short_retries)
    yield process
    process.close()
    assert "hf_writer" not in process.output


def test_push_and_verify_use_xet_and_not_lfs(hub, client, run_folder, sst2_dir):
    hub.xet.expect(run_folder / "model.safetensors")
    result = client("push", run_folder, "--repo-id", "org/xet", "--tag", "v1")
    assert result.code == 0, result.err
    assert hub.repos["org/xet"].files()["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    result = client("push", run_folder, "--repo-id", "org/xet", "--tag", "v1")
    assert (result.code, len(hub.repos["org/xet"].history())) == (0, 2), result.err
    result = client("verify", "org/xet@v1", "--data-dir", sst2_dir)
    assert result.code == 0, result.err
    assert not any("/storage/" in request or "/objects/" in request for request in hub.requests)


def test_push_names_an_unreachable_xet_storage(hub, client, tmp_path, monkeypatch):
    """The storage does not respond, or the Hub has none."""
    folder = build_run(tmp_path / "run")
    for number, storage in enumerate((XetStorage("http://127.0.0.1:9"), None)):
        monkeypatch.setattr(hub, "xet", storage)
        name = f"org/far-{number}"
        result = client("push", folder, "--repo-id", name)
        assert result.code == 2
        assert f"cannot push to {name}: xet storage cannot be reached (" in result.err
        assert f"set HF_HUB_DISABLE_XET=1 to do without xet; {name} is unchanged" in result.err
        assert "Traceback" not in result.err
        assert hub.repos[name].history() == ["initial commit"]


def test_verify_names_an_unreachable_xet_storage(hub, client, run_folder, sst2_dir, monkeypatch):
    hub.xet.expect(run_folder / "model.safetensors")
    assert client("push", run_folder, "--repo-id", "org/unreachable").code == 0
    monkeypatch.setattr(hub.xet, "url", "http://127.0.0.1:9")
    result = client("verify", "org/unreachable", "--data-dir", sst2_dir)
    assert result.code == 2
    assert "cannot fetch org/unreachable: xet storage cannot be reached (" in result.err
    assert "HF_HUB_DISABLE_XET=1 to do without xet" in result.err
    assert "Traceback" not in result.err
