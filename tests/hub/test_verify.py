"""`tkd-hf verify` against a Hub on loopback."""

import pytest


@pytest.fixture(scope="module")
def pushed(client, hub, tmp_path_factory):
    from .conftest import build_run

    folder = build_run(tmp_path_factory.mktemp("pushed") / "run")
    done = client("push", folder, "--repo-id", "org/verified", "--tag", "v1")
    assert done.code == 0, done.err
    return folder


def test_a_true_card(client, pushed, sst2_dir):
    done = client("verify", "org/verified@v1", "--data-dir", sst2_dir)
    assert done.code == 0, done.err
    assert "accuracy            0.625     0.625  true" in done.out
    assert "loads with tkd_hf and with trust_remote_code=True" in done.out
