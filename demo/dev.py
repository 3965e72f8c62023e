"""`make dev`: the embedded servers, and Dagster's UI and daemon over them, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from demo.servers import ROOT, dagster_home, embedded_servers
from ops_platform.systems.throwaway.process import STOP_S, ServerDidNotStart


def main() -> int:
    """Run until Dagster ends or is interrupted; returns the process's exit code."""
    # Ctrl-C and SIGTERM alike end Dagster first, then the servers, also where SIGINT came in ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with embedded_servers():
            return _run_dagster(dagster_home())
    except ServerDidNotStart as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


def _run_dagster(home: Path) -> int:
    dagster = subprocess.Popen(
        [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", "3000"],
        cwd=ROOT,
        env={**os.environ, "DAGSTER_HOME": str(home)},
    )
    try:
        return dagster.wait()
    finally:
        dagster.send_signal(signal.SIGINT)
        try:
            dagster.wait(STOP_S)
        except subprocess.TimeoutExpired:
            dagster.kill()


if __name__ == "__main__":
    sys.exit(main())
