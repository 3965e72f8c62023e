"""Why a job starts other than by the clock: an alert, a budget. One sensor a file."""
