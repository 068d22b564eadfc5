"""`DistillationTrainer.push_to_hub` and `hub_strategy`, against the test Hub."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tkd_hf.hub.folder import SOURCE_FILES


TRAIN = """
import sys

sys.path.insert(0, {root!r})
from pathlib import Path
import transformers
from datasets import Dataset
from tests.factories import LABELS, TEXTS, arguments, build_teacher, build_tokenizer, student_of
from tkd_hf import DistillationTrainer
from tkd_hf.data.tokenization import tokenize

teacher, tokenizer = build_teacher(), build_tokenizer()
data = tokenize(Dataset.from_dict({{"text": TEXTS, "label": LABELS}}), tokenizer)
hub = dict(hub_token="hf_writer", hub_model_id="org/" + {strategy!r}, hub_private_repo=True, hub_always_push=True)
hub |= dict(push_to_hub=True, hub_strategy={strategy!r}, save_strategy="epoch", eval_strategy="epoch")
hub |= dict(objectives={{"logits": 0.9, "hard": 0.1}}, temperature=3.0, learning_rate=0.001)
trainer = DistillationTrainer(
    model=student_of(teacher),
    args=arguments(Path({folder!r}), **hub),
    teacher_model=teacher,
    train_dataset=data,
    eval_dataset=data,
    processing_class=tokenizer,
    compute_metrics=lambda output: {{"accuracy": (output.predictions.argmax(-1) == output.label_ids).mean().item()}},
)

class WaitForPush(transformers.TrainerCallback):
    # A push runs in the background. In such a short run, training would overwrite the files that are being uploaded,
    # and skip the next push.

    def on_step_begin(self, *args, **kwargs):
        if trainer.push_in_progress is not None:
            trainer.push_in_progress.wait_until_done()

trainer.add_callback(WaitForPush())
trainer.train()
trainer.push_to_hub()
print(trainer.state.log_history[-2]["eval_accuracy"])
"""


@pytest.fixture(scope="module", params=["end", "every_save", "checkpoint"])
def pushed(request, client, hub, tmp_path_factory):
    """Train in a client process that pushes; return the repository and the accuracy that the process printed."""
    root, folder = str(Path(__file__).parents[2]), str(tmp_path_factory.mktemp("trained"))
    result = client.python(TRAIN.format(root=root, strategy=request.param, folder=folder), token=None)
    assert result.code == 0, result.err
    repo = hub.repos[f"org/{request.param}"]
    return SimpleNamespace(
        repo=repo, files=repo.files(), strategy=request.param, accuracy=float(result.out.split()[-1])
    )


def test_the_strategy_decides_how_often_the_trainer_pushes(pushed):
    *during_training, _ = pushed.repo.history()[::-1][1:]
    assert all(summary.startswith("Training in progress, epoch") for summary in during_training)
    assert len(during_training) == {"end": 0, "every_save": 2, "checkpoint": 4}[pushed.strategy]


def test_the_trainer_pushes_a_model_that_loads_and_a_checkpoint_if_asked(pushed):
    assert {"config.json", "model.safetensors", *SOURCE_FILES, "tokenizer.json", "README.md"} <= set(pushed.files)
    assert ("last-checkpoint/trainer_state.json" in pushed.files) == (pushed.strategy == "checkpoint")


def test_the_card_of_the_trainer_is_that_of_the_command(pushed):
    page = pushed.files["README.md"].decode()
    expected = [
        f'model="org/{pushed.strategy}"',
        f"| accuracy | {pushed.accuracy:.4f} |",
        "| agreement with the teacher |",
        "`BertForSequenceClassification`, hash of its weights",
        "| fingerprint of training data |",
        "0.9 × logits + 0.1 × hard",
        "| temperature | 3 |",
        "| teacher layers copied into the student (zero-based) | 1, 3 |",
        "| learning_rate | 0.001 |",
        "| duration |",
        "| torch |",
    ]
    assert [text for text in expected if text not in page] == []
    assert yaml.safe_load(page.split("---")[1])["metrics"] == ["accuracy"]


def test_the_trainer_pushes_no_private_files_and_no_token(pushed):
    assert pushed.repo.private
    assert not any(path.endswith("training_args.bin") for path in pushed.files)
    assert not {"trainer_state.json", "tkd_run.json"} & set(pushed.files)
    assert not any(b"hf_writer" in content for content in pushed.files.values())
