"""The demo: embedded servers with sample data, on which the platform's own jobs are run."""
