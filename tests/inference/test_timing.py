"""Interleaved timing with a fake clock, its statistics against values computed by hand, and model size and memory."""

from math import inf

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
)

from tkd_hf import TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.core.errors import InputError
from tkd_hf.inference.memory import count_parameters, measure_footprint, peak_megabytes
from tkd_hf.inference.runners import PyTorchRunner
from tkd_hf.inference.timing import (
    forward_pass,
    median_latencies,
    random_batch,
    text_batch,
    time_interleaved,
    timings,
)
from tkd_hf.models.architectures import max_input_length

from ..factories import WORDS, build_teacher


class FakeMachine:
    """A clock that only its models advance; `log` lists the models in the order in which they ran."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def model(self, name, *seconds):
        """Return a model whose passes take these seconds in turn; the last value is repeated."""
        durations = list(seconds)

        def run():
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]
            self.log.append(name)

        return run

    def time(self, *models, rounds=20, **options):
        return time_interleaved([models] * rounds, clock=self.clock, **options)


def test_every_round_runs_each_model_once_in_changing_order():
    machine = FakeMachine()
    seconds = machine.time(*(machine.model(name, time) for name, time in (("a", 1.0), ("b", 2.0), ("c", 3.0))))
    assert seconds.tolist() == [[1.0, 2.0, 3.0]] * 20
    warm_ups = machine.log[::2]
    assert machine.log[1::2] == warm_ups  # each timed pass comes directly after an untimed pass of the same model
    rounds = ["".join(warm_ups[start : start + 3]) for start in range(0, 60, 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) > 3

    same_seed = FakeMachine()
    same_seed.time(*(same_seed.model(name, 1.0) for name in "abc"))
    assert same_seed.log == machine.log
    other_seed = FakeMachine()
    other_seed.time(*(other_seed.model(name, 1.0) for name in "abc"), seed=1)
    assert other_seed.log != machine.log


def test_the_first_pass_of_a_model_is_not_timed():
    machine = FakeMachine()
    seconds = machine.time(machine.model("a", 100.0, 1.0), machine.model("b", 50.0, 2.0), rounds=2)
    assert seconds.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_each_round_may_have_different_passes():
    machine = FakeMachine()
    rounds = [[machine.model("a", 1.0)], [machine.model("a", 5.0)]]
    assert time_interleaved(rounds, clock=machine.clock).tolist() == [[1.0], [5.0]]


@pytest.mark.parametrize(("patience", "rounds"), [(0, 1), (5.9, 1), (6.1, 2), (inf, 20)])
def test_patience_starts_no_further_round_but_finishes_the_current_one(patience, rounds):
    machine = FakeMachine()
    assert machine.time(machine.model("a", 1.0), machine.model("b", 2.0), patience=patience).shape == (rounds, 2)
    assert len(machine.log) == rounds * 4


def test_timings_equal_values_computed_by_hand():
    reference, fast = timings(np.array([[0.010, 0.005], [0.020, 0.005], [0.060, 0.020]]), batch_size=4, length=16)
    assert (fast.batch_size, fast.length, fast.rounds) == (4, 16, 3)
    assert (reference.p50, fast.p50) == (20.0, 5.0)
    assert reference.p95 == pytest.approx(20 + 0.9 * 40)
    assert fast.p95 == pytest.approx(5 + 0.9 * 15)
    assert reference.throughput == pytest.approx(12 / 0.090)
    assert fast.throughput == pytest.approx(12 / 0.030)
    assert fast.speedup == pytest.approx(3)  # the median of 2, 4 and 3; the ratio of the medians would be 4
    assert fast.interval == pytest.approx((2, 4))
    assert (reference.speedup, reference.interval) == (1.0, (1.0, 1.0))


def test_any_model_can_be_the_reference():
    slow, reference = timings(np.array([[0.2, 0.1]] * 3), batch_size=1, reference=1)
    assert (slow.speedup, reference.speedup) == (0.5, 1.0)


def test_a_machine_that_slows_down_does_not_change_the_speedup():
    drift = np.linspace(1, 10, 30)[:, None]
    _, fast = timings(drift * [[0.02, 0.01]], batch_size=1)
    assert fast.p95 > 1.5 * fast.p50
    assert (fast.speedup, *fast.interval) == pytest.approx((2, 2, 2))


def test_random_batches_hold_all_tokens_but_special_ones_without_padding(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer)
    batch = random_batch(runner, 3, 20)
    assert batch["input_ids"].shape == (3, 20)
    assert batch["attention_mask"].all()
    drawn = set(batch["input_ids"].flatten().tolist())
    assert drawn == set(range(len(WORDS))) - set(tokenizer.all_special_ids)
    assert torch.equal(batch["input_ids"], random_batch(runner, 3, 20)["input_ids"])


def test_text_batches_are_padded_to_the_longest_text_and_truncated(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer)
    batch = text_batch(runner, [("good",), ("a very fine story",)], max_length=32)
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]
    assert text_batch(runner, [("a very fine story",)], max_length=4)["input_ids"].shape == (1, 4)
    assert text_batch(runner, [("good", "bad"), ("fine", "dull")], max_length=32)["input_ids"].shape == (2, 5)


def test_maximum_input_length_follows_from_the_table_of_positions():
    assert max_input_length(BertConfig(max_position_embeddings=32)) == 32
    assert max_input_length(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert max_input_length(TKDConfig(position_embedding_type="sinusoidal")) == inf


def test_a_failed_pass_names_the_model_and_the_batch(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer, "runs/x")
    with pytest.raises(InputError, match=r"runs/x \(pytorch\) cannot run a batch of 2 × 40 tokens: "):
        forward_pass(runner, random_batch(runner, 2, 40))()


def test_median_latencies_are_one_positive_number_per_model(tokenizer):
    runners = [PyTorchRunner(build_teacher(), tokenizer)] * 2
    latencies = median_latencies(runners, [("good film",), ("dull", "not good")])
    assert len(latencies) == 2
    assert all(0 < latency < 1e4 for latency in latencies)


@pytest.mark.parametrize(
    "model",
    [
        build_teacher(),
        student_from_teacher(build_teacher(), num_hidden_layers=2),
        TKDForSequenceClassification(
            TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 5], intermediate_sizes=[20, 7], vocab_size=50)
        ),
    ],
    ids=["bert", "student", "uneven"],
)
def test_parameters_are_counted_from_the_configuration_alone(model):
    parameters = count_parameters(model.config)
    assert parameters.total == model.num_parameters()
    assert parameters.embeddings == sum(weight.numel() for weight in model.base_model.embeddings.parameters())


def test_counting_parameters_allocates_no_memory():
    """The embeddings of this model would take 32 gigabytes."""
    config = BertConfig(vocab_size=10**9, hidden_size=8, num_attention_heads=1, num_labels=2)
    config.architectures = [AutoModelForSequenceClassification._model_mapping[BertConfig].__name__]
    assert count_parameters(config).embeddings > 8 * 10**9


def test_peak_memory_stays_after_the_memory_is_freed():
    before = peak_megabytes()
    ballast = b"1" * int(before * 1e6)
    after = peak_megabytes()
    del ballast
    assert peak_megabytes() > 0.98 * after  # Linux counts pages only approximately
    assert after > 1.3 * before


@pytest.mark.slow
def test_the_footprint_grows_by_the_weights_and_ignores_this_process(tmp_path, tokenizer):
    ballast = b"1" * 10**9
    footprints = []
    for name, width in (("small", 32), ("big", 300_000)):
        config = build_teacher().config
        config.intermediate_size = width
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        footprints.append(measure_footprint(str(tmp_path / name), 1, 8))
    small, big = footprints
    assert small.before_megabytes <= small.peak_megabytes < len(ballast) / 1e6
    assert abs(big.before_megabytes - small.before_megabytes) < 50
    weights = 4 * 2 * 16 * 300_000 * 4 / 1e6  # layers × matrices × hidden × intermediate, in float32
    assert 0.8 * weights < big.peak_megabytes - small.peak_megabytes < 3 * weights
    assert all(footprint.load_seconds > 0 for footprint in footprints)


@pytest.mark.slow
def test_a_failed_measuring_process_gives_an_error_of_one_line(tmp_path):
    message = r"x cannot be loaded and run in a separate process: .*check the name"
    with pytest.raises(InputError, match=message) as error:
        measure_footprint(str(tmp_path / "x"), 1, 8)
    assert "\n" not in str(error.value)
