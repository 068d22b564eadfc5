"""Measure a model: the metrics of its task, its agreement with the teacher, and its speed, size and memory."""
