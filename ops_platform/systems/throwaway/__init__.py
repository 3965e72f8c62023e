"""Servers that live as long as a `with` block: what the demo backs up and a test uses are the same component."""
