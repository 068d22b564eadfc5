"""Models that take turns, with a clock of our own; what their times say, computed by hand."""

from math import inf

import numpy as np
import pytest
import torch
from transformers import BertConfig, RobertaConfig

from tkd_hf import TKDConfig
from tkd_hf.errors import InputError
from tkd_hf.evaluation.benchmark import (
    forward_pass,
    max_input_length,
    median_latencies,
    random_batch,
    text_batch,
    time_interleaved,
    timings,
)
from tkd_hf.evaluation.runners import PyTorchRunner

from ..conftest import WORDS, build_teacher


class Workshop:
    """A clock, and models that let it go on; `log` says which of them ran."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def model(self, name, *seconds):
        """Each pass takes the next of these; the last again and again."""
        left = list(seconds)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.log.append(name)

        return run

    def time(self, *models, rounds=20, **options):
        return time_interleaved([models] * rounds, clock=self.clock, **options)


def test_every_round_runs_each_model_once_in_changing_order():
    shop = Workshop()
    seconds = shop.time(*(shop.model(name, time) for name, time in (("a", 1.0), ("b", 2.0), ("c", 3.0))))
    assert seconds.tolist() == [[1.0, 2.0, 3.0]] * 20
    turns = shop.log[::2]
    assert shop.log[1::2] == turns  # each pass that is timed comes right after one that is not
    rounds = ["".join(turns[start : start + 3]) for start in range(0, 60, 3)]
    assert {"".join(sorted(turn)) for turn in rounds} == {"abc"}
    assert len(set(rounds)) > 3

    again = Workshop()
    again.time(*(again.model(name, 1.0) for name in "abc"))
    assert again.log == shop.log
    other = Workshop()
    other.time(*(other.model(name, 1.0) for name in "abc"), seed=1)
    assert other.log != shop.log


def test_the_warm_up_does_not_count():
    shop = Workshop()
    seconds = shop.time(shop.model("a", 100.0, 1.0), shop.model("b", 50.0, 2.0), rounds=2)
    assert seconds.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_each_round_may_be_another_batch():
    shop = Workshop()
    rounds = [[shop.model("a", 1.0)], [shop.model("a", 5.0)]]
    assert time_interleaved(rounds, clock=shop.clock).tolist() == [[1.0], [5.0]]


@pytest.mark.parametrize(("patience", "rounds"), [(0, 1), (5.9, 1), (6.1, 2), (inf, 20)])
def test_patience_ends_with_a_whole_round(patience, rounds):
    shop = Workshop()
    assert shop.time(shop.model("a", 1.0), shop.model("b", 2.0), patience=patience).shape == (rounds, 2)
    assert len(shop.log) == rounds * 4


def test_figures_by_hand():
    reference, fast = timings(np.array([[0.010, 0.005], [0.020, 0.005], [0.060, 0.020]]), batch_size=4, length=16)
    assert (fast.batch_size, fast.length, fast.rounds) == (4, 16, 3)
    assert (reference.p50, fast.p50) == (20.0, 5.0)
    assert reference.p95 == pytest.approx(20 + 0.9 * 40)
    assert fast.p95 == pytest.approx(5 + 0.9 * 15)
    assert reference.throughput == pytest.approx(12 / 0.090)
    assert fast.throughput == pytest.approx(12 / 0.030)
    assert fast.speedup == pytest.approx(3)  # the middle of 2, 4 and 3; that of the medians would be 4
    assert fast.interval == pytest.approx((2, 4))
    assert (reference.speedup, reference.interval) == (1.0, (1.0, 1.0))


def test_the_reference_may_stand_anywhere():
    slow, reference = timings(np.array([[0.2, 0.1]] * 3), batch_size=1, reference=1)
    assert (slow.speedup, reference.speedup) == (0.5, 1.0)


def test_a_machine_that_slows_down_changes_no_ratio():
    drift = np.linspace(1, 10, 30)[:, None]
    _, fast = timings(drift * [[0.02, 0.01]], batch_size=1)
    assert fast.p95 > 1.5 * fast.p50
    assert (fast.speedup, *fast.interval) == pytest.approx((2, 2, 2))


def test_random_batches(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer)
    batch = random_batch(runner, 3, 20)
    assert batch["input_ids"].shape == (3, 20)
    assert batch["attention_mask"].all()
    drawn = set(batch["input_ids"].flatten().tolist())
    assert drawn == set(range(len(WORDS))) - set(tokenizer.all_special_ids)
    assert torch.equal(batch["input_ids"], random_batch(runner, 3, 20)["input_ids"])


def test_batches_of_texts_are_padded_to_their_longest_and_cut(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer)
    batch = text_batch(runner, [("good",), ("a very fine story",)], max_length=32)
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]
    assert text_batch(runner, [("a very fine story",)], max_length=4)["input_ids"].shape == (1, 4)
    assert text_batch(runner, [("good", "bad"), ("fine", "dull")], max_length=32)["input_ids"].shape == (2, 5)


def test_how_much_a_model_reads():
    assert max_input_length(BertConfig(max_position_embeddings=32)) == 32
    assert max_input_length(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert max_input_length(TKDConfig(position_embedding_type="sinusoidal")) == inf


def test_a_model_that_fails_is_named(teacher, tokenizer):
    runner = PyTorchRunner(teacher, tokenizer, "runs/x")
    with pytest.raises(InputError, match=r"runs/x \(pytorch\) cannot run a batch of 2 × 40 tokens: "):
        forward_pass(runner, random_batch(runner, 2, 40))()


def test_single_sentences(tokenizer):
    runners = [PyTorchRunner(build_teacher(), tokenizer)] * 2
    times = median_latencies(runners, [("good film",), ("dull", "not good")])
    assert len(times) == 2
    assert all(0 < time < 1e4 for time in times)
