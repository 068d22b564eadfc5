"""The report: what compression cost and what it bought, as tables and pictures for people."""
