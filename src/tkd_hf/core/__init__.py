"""Shared foundations: errors, files, processes, hardware, names of models and labels, checks of untrusted files."""
