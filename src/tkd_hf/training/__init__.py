"""The trainers, their callbacks, and training in a run folder."""
