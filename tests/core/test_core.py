"""Errors, files, labels, hardware and intervals: the helpers that every package uses."""

import os
import signal
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from tkd_hf import InputError, TKDConfig
from tkd_hf.core import hardware
from tkd_hf.core.errors import StopRequested, first_line
from tkd_hf.core.files import atomic_write, read_json
from tkd_hf.core.hardware import describe_hardware, describe_software, has_fast_bf16, padding_multiple
from tkd_hf.core.names import check_label_codes, label_names, label_order
from tkd_hf.core.processes import DelayedStop, stopping_at_once
from tkd_hf.core.statistics import bootstrap, confidence_interval, mcnemar
from tkd_hf.evaluation.metrics import metric_functions
from tkd_hf.evaluation.predictions import Predictions

from ..factories import build_tokenizer


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ImportError("\n two \n"), "two"),
        (OSError(), "OSError"),
        (TypeError("Validation error:\n  no number"), "Validation error: no number"),
    ],
)
def test_first_line_skips_empty_lines_and_continues_after_a_colon(error, line):
    assert first_line(error) == line


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


# --- files ----------------------------------------------------------------------------------------------------------


def test_atomic_write_keeps_the_previous_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with suppress(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_damaged_json_is_reported_with_a_hint(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is damaged \(.*\); write it again"):
        read_json(tmp_path / "x.json", hint="write it again")


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels_are_matched_by_name_whatever_the_case():
    assert label_order(["A", "b", "C"], ["c", "a", "B"], "teacher", "student") == [2, 0, 1]


@pytest.mark.parametrize("target", [["a", "c"], ["a"], ["a", "b", "b"]])
def test_different_label_sets_are_refused_with_both_and_a_hint(target):
    with pytest.raises(InputError) as error:
        label_order(["a", "b"], target, "teacher", "data")
    for part in ("teacher", "data", str(["a", "b"]), str(target), "id2label", "--label-names"):
        assert part in str(error.value)


def test_labels_that_differ_only_in_case_are_matched_exactly_or_refused():
    assert label_order(["may", "May"], ["May", "may"], "teacher", "student") == [1, 0]
    with pytest.raises(InputError):
        label_order(["a", "A"], ["a", "a"], "teacher", "student")


def test_numbers_as_names_and_texts_as_codes_in_a_configuration_are_understood():
    config = SimpleNamespace(num_labels=2, id2label={0: 7, 1: 8}, label2id={"7": "0", "8": "1"})
    assert label_names(config) == ("7", "8")
    check_label_codes(config, "m")
    config.label2id = {"7": "1", "8": "0"}
    with pytest.raises(InputError, match="contradict each other"):
        check_label_codes(config, "m")


def test_label_names_follow_the_order_of_the_logits():
    assert label_names(TKDConfig(id2label={1: "yes", 0: "no"})) == ("no", "yes")
    assert label_names(TKDConfig(num_labels=1)) == ()


# --- hardware -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "is_fast"), [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_bf16_is_fast_only_on_cpus_that_compute_in_it(monkeypatch, capabilities, is_fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bf16() is is_fast


def test_emulated_bf16_on_a_gpu_is_not_fast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert has_fast_bf16() is False


def test_description_contains_the_machine_and_the_version_of_torch():
    assert {"cpu", "cores", "threads", "accelerator", "bf16"} == set(describe_hardware())
    assert describe_software()["torch"].startswith(torch.__version__.split("+")[0])


def test_description_lists_optional_packages_only_if_they_are_installed(monkeypatch):
    def version(name):
        if name in ("tkd-hf", "openvino"):
            raise hardware.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(hardware, "version", version)
    monkeypatch.setattr(hardware, "RECORDED_PACKAGES", {"onnxruntime", "openvino"})  # as backends add them
    versions = describe_software()
    assert (versions["tkd-hf"], versions["onnxruntime"]) == ("not installed", "1.0")
    assert "openvino" not in versions


@pytest.mark.parametrize(("device", "longest", "multiple"), [("cuda", 512, 8), ("cuda", 510, None), ("cpu", 512, None)])
def test_gpu_batches_are_padded_to_multiples_within_the_longest_input(device, longest, multiple):
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = longest
    assert padding_multiple(torch.device(device), tokenizer) == multiple


@pytest.fixture
def predictions():
    """Predictions for 400 examples of two classes, seven in eight of them correct."""
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=400)
    correct = rng.random(400) < 0.875
    predicted = np.where(correct, labels, 1 - labels)
    return Predictions(np.eye(2, dtype=np.float32)[predicted] * 3, labels, "single_label_classification")


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_bootstrap_intervals_equal_those_of_scipy(predictions, metric):
    """The ends are quantiles of 2,000 random resamples, so the two agree to within a tenth of the width."""
    (statistic,) = metric_functions(predictions, (metric,))
    ours = confidence_interval(bootstrap([statistic], 400, resamples=2000))
    theirs = stats.bootstrap(
        (np.arange(400),), statistic, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1 * width)


def test_bootstrap_intervals_of_accuracy_equal_the_normal_approximation(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    share = predictions.correct.mean()
    error = 1.96 * (share * (1 - share) / 400) ** 0.5
    assert confidence_interval(bootstrap([statistic], 400)) == pytest.approx((share - error, share + error), abs=0.006)


def test_all_statistics_see_the_same_resamples(predictions):
    """The difference of two equal models is therefore exactly zero."""
    equal_statistics = metric_functions(predictions, ("accuracy",)) * 2
    values = bootstrap(equal_statistics, 400, resamples=50)
    assert values.shape == (50, 2)
    assert (values[:, 0] == values[:, 1]).all()
    assert len(np.unique(values)) > 5


def test_the_seed_decides_the_resamples(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    first, same_seed, other_seed = (bootstrap([statistic], 400, 20, seed) for seed in (0, 0, 1))
    assert (first == same_seed).all()
    assert (first != other_seed).any()


@pytest.mark.parametrize(("only_first", "only_second"), [(25, 27), (31, 12), (0, 7), (1, 0), (0, 0)])
def test_mcnemar_equals_that_of_statsmodels(only_first, only_second):
    reference = reference_mcnemar([[100, only_first], [only_second, 100]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(1.0 if only_first == only_second == 0 else reference)


# --- processes ------------------------------------------------------------------------------------------------------


def test_the_first_request_to_stop_is_remembered_and_the_second_stops():
    with DelayedStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum == signal.SIGINT
        with pytest.raises(StopRequested, match="stopped by SIGHUP") as request:
            os.kill(os.getpid(), signal.SIGHUP)
    assert request.value.exit_code == 129


def test_a_launcher_that_passes_on_the_signal_of_the_terminal_counts_as_one_request(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with DelayedStop() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signum == signal.SIGINT


def test_a_signal_that_the_process_ignores_stays_ignored():
    """As under nohup, which ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_at_once(), DelayedStop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_does_not_end_the_workers_that_load_data():
    with DelayedStop() as stop:
        loader = torch.utils.data.DataLoader(range(4), num_workers=1, multiprocessing_context="fork")
        batches = iter(loader)
        os.kill(loader_process(batches), signal.SIGINT)
        assert [batch.item() for batch in batches] == [0, 1, 2, 3]
    assert stop.signum is None


def loader_process(batches) -> int:
    return batches._workers[0].pid
