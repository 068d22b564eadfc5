"""Load a saved student as remote code, as a user without tkd-hf would, save it and load it again.

`python load_without_package.py STUDENT_FOLDER NEW_FOLDER` prints the classes and the logits of one text.
"""

import importlib.abc
import sys


class HidePackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tkd_hf":
            raise ModuleNotFoundError("tkd_hf is not installed here")


def main(folder: str, new_folder: str) -> None:
    sys.meta_path.insert(0, HidePackage())
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(new_folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(new_folder, trust_remote_code=True)
    assert "tkd_hf" not in sys.modules
    assert not hasattr(model, "from_teacher")  # it needs the package
    print(type(model).__module__, type(model).__name__, type(encoder).__name__)
    print(loaded(torch.tensor([[2, 5, 6, 3]])).logits.tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
