"""`DistillationTrainer.push_to_hub` and `hub_strategy` against a Hub on loopback."""

from pathlib import Path

import pytest
import yaml

from tkd_hf.hub.folder import SOURCE_FILES


TRAIN = """
import sys
import transformers  # before the tests' conftest, which is for tests without a network

sys.path.insert(0, {root!r})
from pathlib import Path
from datasets import Dataset
from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer
from tests.training import arguments, student_of
from tkd_hf import DistillationTrainer
from tkd_hf.data.features import tokenize

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
    compute_metrics=lambda found: {{"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean().item()}},
)

class Waits(transformers.TrainerCallback):
    # a push runs beside training, which in so small a run would overwrite what is being sent, and skip the next

    def on_step_begin(self, *args, **kwargs):
        if trainer.push_in_progress is not None:
            trainer.push_in_progress.wait_until_done()

trainer.add_callback(Waits())
trainer.train()
trainer.push_to_hub()
print(trainer.state.log_history[-2]["eval_accuracy"])
"""


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_strategies(client, hub, tmp_path, strategy):
    root = str(Path(__file__).parents[2])
    done = client.python(TRAIN.format(root=root, strategy=strategy, folder=str(tmp_path)), token=None)
    assert done.code == 0, done.err
    repo = hub.repos[f"org/{strategy}"]
    assert repo.private
    *before, _ = repo.history()[::-1][1:]
    assert [summary.startswith("Training in progress, epoch") for summary in before] == [True] * len(before)
    assert len(before) == {"end": 0, "every_save": 2, "checkpoint": 4}[strategy]
    files = repo.files()
    own = {"config.json", "model.safetensors", *SOURCE_FILES, "tokenizer.json", "README.md"}
    assert own <= set(files)
    page = files["README.md"].decode()  # the card of `tkd-hf card`, from what the trainer knows
    accuracy = float(done.out.split()[-1])
    for said in (
        *(f'model="org/{strategy}"', f"| accuracy | {accuracy:.4f} |", "| answered as the teacher does |"),
        *("`BertForSequenceClassification`, hash of its weights", "| fingerprint of training data |"),
        *("0.9 × logits + 0.1 × hard", "| temperature | 3 |", "| layers taken from the teacher | 1, 3 |"),
        *("| learning_rate | 0.001 |", "| took |", "| torch |"),
    ):
        assert said in page
    assert yaml.safe_load(page.split("---")[1])["metrics"] == ["accuracy"]
    kept = {path for path in files if path.startswith("last-checkpoint/")}
    assert ("last-checkpoint/trainer_state.json" in kept) == (strategy == "checkpoint")
    assert not any(path.endswith("training_args.bin") for path in files)
    assert not {"trainer_state.json", "tkd_run.json"} & set(files)
    assert not any(b"hf_writer" in content for content in files.values())
