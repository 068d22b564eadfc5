"""The stages of a recipe, one module and one public function each: pre-train, fine-tune, label, distil, evaluate, …

Each command of `tkd-hf` parses its options and calls the function of the same name.
"""

from ..models.registration import register_auto_classes


register_auto_classes()
