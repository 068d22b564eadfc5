"""Real faults during training: each ends in one line, loses no finished work, and the run can be resumed."""

import os
import resource
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState, TrainingArguments

from tkd_hf import DistillationTrainer, SoftLabels
from tkd_hf.core.errors import InputError
from tkd_hf.training.callbacks import StopOnNonFiniteGradient

from ..factories import FAST, read_json, write_recipe


TRAINING_ARGS = FAST.replace("--num-train-epochs 1", "--num-train-epochs 2").removesuffix(" --save-strategy no").split()
EVERY_STEP = ["--save-strategy", "steps", "--save-steps", 1]


@pytest.fixture
def distill(run, teacher_folder, sst2_dir, tmp_path):
    """Return a function that runs `tkd-hf distill` with a checkpoint after each of its four steps."""

    def call(*args, output="student"):
        data = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 2]
        return run(
            "distill", teacher_folder, *data, "--output-dir", tmp_path / output, *TRAINING_ARGS, *EVERY_STEP, *args
        )

    return call


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that makes a training step run something first, once."""

    def install(number: int, action, monkeypatch=monkeypatch):
        steps = iter(range(1, 100))
        training_step = DistillationTrainer.training_step

        def step(trainer, *args, **kwargs):
            if next(steps) == number:
                action(trainer)
            return training_step(trainer, *args, **kwargs)

        monkeypatch.setattr(DistillationTrainer, "training_step", step)

    return install


def same_weights(*folders) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def last_line(err: str) -> str:
    return err.strip().splitlines()[-1]


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_its_command_gives_the_same_student(run, distill, at_step, tmp_path):
    at_step(2, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = distill("--save-steps", 100)
    assert (code, out) == (143, "")
    command = last_line(err).removeprefix("tkd-hf: stopped after step 2 with a checkpoint; go on with: ")
    program, *words = shlex.split(command)
    assert (program, words[0], words[-1]) == ("tkd-hf", "distill", "--resume")
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_json(tmp_path / "student" / "tkd_run.json")["finished"] is None
    assert (tmp_path / "student" / "checkpoint-2" / "trainer_state.json").exists()

    assert run(*words)[0] == 0
    assert distill("--save-steps", 100, output="whole")[0] == 0
    assert same_weights(tmp_path / "student", tmp_path / "whole")


def interrupt(*signals):
    return lambda trainer: [os.kill(os.getpid(), number) for number in signals]


def test_ctrl_c_or_sighup_in_a_recipe_leaves_a_checkpoint_and_the_command(
    run, at_step, teacher_folder, sst2_dir, tmp_path
):
    """Both are in one test because a recipe takes seconds."""
    options = {"layers": 2, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    recipe = write_recipe(
        tmp_path,
        [{"distill": {**options, "num_train_epochs": 3, "per_device_train_batch_size": 4}}],
        teacher=str(teacher_folder),
        data={"task": "sst2", "data_dir": str(sst2_dir)},
        output_dir=str(tmp_path / "my runs"),
    )
    for name, code, step, options in (("SIGINT", 130, 2, ["--overwrite"]), ("SIGHUP", 129, 4, [])):
        with pytest.MonkeyPatch.context() as patch:
            at_step(2, interrupt(getattr(signal, name)), patch)
            result, out, err = run("run", recipe, *options)
        assert (result, out) == (code, ""), err
        assert last_line(err) == (
            f"tkd-hf: stopped after step {step} with a checkpoint; go on with: tkd-hf run {recipe}"
        )
        assert (tmp_path / "my runs" / "distill" / f"checkpoint-{step}" / "trainer_state.json").exists()
    assert run("run", recipe)[0] == 0


def test_the_second_ctrl_c_stops_at_once(distill, at_step, tmp_path):
    at_step(2, interrupt(signal.SIGINT, signal.SIGINT))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    code, out, err = distill()
    assert (code, out) == (130, "")
    message, _, command = last_line(err).partition(": tkd-hf ")
    assert message == "tkd-hf: stopped by SIGINT; what was stored is kept; go on with"
    assert command.endswith(" --resume")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert not (tmp_path / "student" / "checkpoint-2").exists()


def test_a_stop_while_labelling_keeps_what_was_stored(run, teacher_folder, sst2_dir, tmp_path, monkeypatch):
    compute, parts = SoftLabels.compute, iter(range(9))

    def interrupted(*args, **kwargs):
        if next(parts) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*args, **kwargs)

    monkeypatch.setattr(SoftLabels, "compute", interrupted)
    monkeypatch.setattr("tkd_hf.commands.label.EXAMPLES_PER_SAVE", 3)
    path = tmp_path / "soft.safetensors"
    command = ["label", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--soft-labels", path]
    code, out, err = run(*command, "--overwrite")
    assert (code, out) == (143, "")
    expected = shlex.join(["tkd-hf", *map(str, command)])
    assert last_line(err) == f"tkd-hf: stopped by SIGTERM; what was stored is kept; go on with: {expected}"
    assert len(SoftLabels.load(path).keys) == 3
    assert run(*command)[0] == 0
    assert len(SoftLabels.load(path).keys) == 8


def test_a_nan_gradient_stops_training_before_the_weights_are_updated(distill, at_step, tmp_path):
    def spoil(trainer):
        with torch.no_grad():
            trainer.model.classifier.weight[0, 0] = float("nan")

    at_step(3, spoil)
    code, out, err = distill()
    assert (code, out) == (2, "")
    assert "the gradient of step 3 is not finite (logits nan, hard nan); training stopped before it" in last_line(err)
    weights = load_file(tmp_path / "student" / "checkpoint-2" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not (tmp_path / "student" / "checkpoint-3").exists()
    assert distill("--resume")[0] == 0


def test_a_nan_loss_stops_training_if_no_gradient_norm_is_known():
    """DeepSpeed takes its step before the Trainer computes the norm."""
    model, args, state = torch.nn.Linear(1, 1), TrainingArguments(use_cpu=True), TrainerState(global_step=2)
    losses = {"logits": 0.5}
    callback = StopOnNonFiniteGradient(SimpleNamespace(last_losses=lambda: losses, gradient_norm=float("nan")))
    callback.on_pre_optimizer_step(args, state, None, model=model)
    losses["logits"] = float("nan")
    with pytest.raises(InputError, match=r"the loss of step 3 is not finite \(logits nan\); training .* after it"):
        callback.on_pre_optimizer_step(args, state, None, model=model)


def test_an_enormous_learning_rate_ends_in_one_line(run, sst2_dir, teacher_folder, tmp_path):
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "tuned"]
    code, _, err = run(
        "finetune", teacher_folder, *data, *TRAINING_ARGS, "--learning-rate", "1e38", "--warmup-steps", 0
    )
    assert code == 2
    assert "is not finite (loss nan)" in last_line(err)


def test_running_out_of_memory_names_smaller_batches(distill, at_step):
    at_step(2, lambda trainer: torch.empty(10**15))
    code, out, err = distill()
    assert (code, out) == (2, "")
    assert "out of memory with batches of 4" in last_line(err)
    smaller = "--per-device-train-batch-size 2 --gradient-accumulation-steps 2"
    assert f"go on with --resume {smaller} (the same result), or start again" in last_line(err)
    assert distill("--resume", *smaller.split())[0] == 0


@pytest.mark.slow
def test_a_full_disk_keeps_earlier_checkpoints_and_the_run_resumes(distill, at_step, tmp_path):
    """A limit on the size of files fails writes as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(3, lambda trainer: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1])))
    try:
        code, _, err = distill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2, err
    assert "cannot write or read" in last_line(err)
    assert "File too large" in last_line(err)
    assert distill("--resume")[0] == 0
    assert distill(output="whole")[0] == 0
    assert same_weights(tmp_path / "student", tmp_path / "whole")


def test_an_output_folder_below_a_file_is_refused(distill, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = distill(output="file/student")
    assert (code, out) == (2, "")
    assert "Not a directory" in last_line(err)
    assert (tmp_path / "file").read_text() == "mine"


HOLD_LOCK = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_run_uses_is_refused_and_unchanged(distill, tmp_path):
    assert distill()[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "student").rglob("*")}
    holder = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "student" / ".tkd_run.lock")]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        code, out, err = distill("--overwrite")
        assert (code, out) == (2, "")
        assert "another run is using" in last_line(err)
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "student").rglob("*")}
        assert {path: time for path, time in after.items() if path.name != ".tkd_run.lock"} == {
            path: time for path, time in before.items() if path.name != ".tkd_run.lock"
        }
        process.kill()
    assert distill("--overwrite")[0] == 0


def test_resuming_ignores_file_times_and_takes_the_latest_step(distill, at_step, tmp_path):
    """After the clock jumped, an older checkpoint may have the newer time; no time in the record is negative."""
    at_step(4, lambda trainer: torch.empty(10**15))
    assert distill("--save-total-limit", 3)[0] == 2
    os.utime(tmp_path / "student" / "checkpoint-1" / "trainer_state.json", (4e9, 4e9))
    os.utime(tmp_path / "student" / "checkpoint-1", (4e9, 4e9))
    os.utime(tmp_path / "student" / "checkpoint-3", (0, 0))
    code, _, err = distill("--save-total-limit", 3, "--resume")
    assert code == 0, err
    assert read_json(tmp_path / "student" / "tkd_run.json")["seconds"] >= 0
    assert distill(output="whole")[0] == 0
    assert same_weights(tmp_path / "student", tmp_path / "whole")
    assert read_json(tmp_path / "student" / "trainer_state.json")["global_step"] == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_refused(distill, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    code, out, err = distill(output="shut/student")
    assert (code, out) == (2, "")
    assert "Permission denied" in last_line(err)
