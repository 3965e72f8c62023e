"""Backups that exist only when they are whole: taking them, describing them, letting old ones go."""
