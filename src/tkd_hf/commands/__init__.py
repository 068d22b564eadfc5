"""The stages of a recipe, one module and one public function each: pre-train, fine-tune, label, distil, evaluate, …

Each command of `tkd-hf` builds the options of `tkd_hf.commands.options` and calls the function of the same name.
"""
