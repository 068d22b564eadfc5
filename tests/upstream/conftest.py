"""Settings for the tests that transformers provides (see transformers_tests.py)."""

import re
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))  # for transformers_tests, in any import mode of pytest

# Marks of the tests of transformers, which its own conftest.py declares.
MARKS = ["slow", "accelerate_tests", "torch_compile_test", "torch_export_test"]
MARKS += ["flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"]

# Accepted reasons for a skipped test. transformers skips tests of features that a model seems to lack, so a mistake in
# the model or its tester could silently skip most of them. Any other reason is therefore a failure here. "Not a
# prioritized model" means that configuration_tkd.py lacks its copyright line, in which transformers looks for a recent
# year.
ACCEPTED_REASONS = {
    "a machine or package that is not used here": (
        r"test requires (multiple accelerators|accelerator|CUDA|MPS|deepspeed|the kernels library|Flash Attention)",
        r"This test requires an? .*GPU",
        r"test is slow",  # RUN_SLOW=1 runs them
    ),
    "other kinds of models": (
        r"not (a )?composite|No subconfigs",
        r"No (sequence-to-sequence|decoder-only) language modeling head",
        r"Do not take a cache as input",  # an encoder has no cache of keys and values
        r"sliding window|RoPE|sparse experts|output_router_logits|grouped_mm",
    ),
    "optional features that TKD does not need": (
        r"Model does not have position embeddings",  # means that they cannot be resized; those of BERT cannot, either
        r"TP plan",
        r"_keep_in_fp32_modules",  # no module needs float32
        r"No conversion found",  # checkpoints have only one layout
    ),
}
ACCEPTED = re.compile("|".join(reason for reasons in ACCEPTED_REASONS.values() for reason in reasons))


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: used by the tests of transformers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not ACCEPTED.search(str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"Skipped for a reason that tests/upstream/conftest.py does not list: {report.longrepr[-1]}"
    return report
