"""The bench: how fast the project is, beside what a user would take instead, on one machine."""
