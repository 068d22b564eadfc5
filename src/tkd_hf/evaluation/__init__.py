"""What a model is worth: the metrics of its task, and what it costs to run."""
