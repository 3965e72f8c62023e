"""What can be started, from the UI, by a schedule or by hand: one job a file."""
