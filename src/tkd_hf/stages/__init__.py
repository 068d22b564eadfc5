"""The stages of the recipe, each one public function: fine-tune a teacher, label, distil, evaluate.

The commands of `tkd-hf` are thin shells over these.
"""

from ..registration import register_auto_classes


register_auto_classes()
