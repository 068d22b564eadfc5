"""Settings for the tests that come from transformers itself (see transformers_tests.py)."""

import re
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))  # fetch and transformers_tests, whatever import mode pytest is in

# The marks upstream puts on its tests, which its own conftest.py declares.
MARKS = ["slow", "accelerate_tests", "torch_compile_test", "torch_export_test"]
MARKS += ["flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"]

# Why an upstream test may be skipped. Upstream skips whatever it believes a model cannot do, so a mistake in the model
# or in its tester could quietly leave little that runs: a skip for any other reason is a failure here. ("Not a
# prioritized model" means that configuration_tkd.py lacks its copyright line, where upstream looks for a recent year.)
NOT_APPLICABLE = {
    "the machine or a package we do not use": (
        r"test requires (multiple accelerators|accelerator|CUDA|MPS|deepspeed|the kernels library|Flash Attention)",
        r"This test requires an? .*GPU",
        r"test is slow",  # RUN_SLOW=1 runs them
    ),
    "kinds of model that TKD is not": (
        r"not (a )?composite|No subconfigs",
        r"No (sequence-to-sequence|decoder-only) language modeling head",
        r"sliding window|RoPE|sparse experts|output_router_logits|grouped_mm",
    ),
    "optional features that TKD has no use for": (
        r"Model does not have position embeddings",  # it has; what is meant is resizing them, which BERT lacks as well
        r"TP plan",
        r"_keep_in_fp32_modules",  # nothing in it needs fp32
        r"No conversion found",  # its checkpoints have one layout
    ),
}
WAIVED = re.compile("|".join(reason for reasons in NOT_APPLICABLE.values() for reason in reasons))


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: set by the tests of transformers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not WAIVED.search(str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"Skipped for a reason that tests/upstream/conftest.py does not list: {report.longrepr[-1]}"
    return report
