"""What is recorded beside every figure."""

import pytest
import torch

from tkd_hf import hardware
from tkd_hf.hardware import describe_hardware, describe_software, has_fast_bf16, padding_multiple

from .conftest import build_tokenizer


def test_bf16_is_fast_only_where_the_cpu_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capabilities, answer in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert has_fast_bf16() is answer


def test_a_gpu_is_asked_whether_it_emulates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert has_fast_bf16() is False


def test_the_machine_and_the_versions_are_named():
    assert {"cpu", "cores", "threads", "accelerator", "bf16"} == set(describe_hardware())
    assert describe_software()["torch"].startswith(torch.__version__.split("+")[0])


def test_backends_are_named_where_they_are_installed(monkeypatch):
    def version(name):
        if name in ("tkd-hf", "openvino"):
            raise hardware.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(hardware, "version", version)
    found = describe_software()
    assert (found["tkd-hf"], found["onnxruntime"], "openvino" in found) == ("not installed", "1.0", False)


@pytest.mark.parametrize(("device", "longest", "multiple"), [("cuda", 512, 8), ("cuda", 510, None), ("cpu", 512, None)])
def test_on_a_gpu_lengths_are_multiples_but_never_beyond_the_longest(device, longest, multiple):
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = longest
    assert padding_multiple(torch.device(device), tokenizer) == multiple
