"""Shared foundations: errors, files, processes, hardware, names of models and labels."""
