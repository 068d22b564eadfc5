"""The run folder, the record of its stages, and redaction of private paths and tokens."""
