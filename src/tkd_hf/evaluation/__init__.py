"""Judge a model: metrics of its task, agreement with the teacher, calibration, and the results as dataclasses."""
