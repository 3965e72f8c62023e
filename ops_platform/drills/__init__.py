"""Proof that backups restore: on a throw-away server, held against the manifest, with figures and a report."""
