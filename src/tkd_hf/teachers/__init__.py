"""Sources of soft labels: live and cached teachers, ensembles, and models that propose words."""
