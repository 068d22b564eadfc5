"""Model cards and reports: text, tables and plots made from run records and results."""
