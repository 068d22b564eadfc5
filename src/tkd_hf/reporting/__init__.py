"""Render a report on a teacher and its students: tables in Markdown, and plots."""
