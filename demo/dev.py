"""`make dev`: the embedded servers, and Dagster's UI and daemon over them, until Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys

from demo.servers import ROOT, embedded_servers
from ops_platform.systems.throwaway.process import ServerDidNotStart


def main() -> int:
    """Run until Dagster ends or is interrupted; returns the process's exit code."""
    home = ROOT / ".dagster"
    home.mkdir(exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").symlink_to("../dagster.yaml")
    try:
        with embedded_servers():
            return subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "dagster",
                    "dev",
                    "-w",
                    "workspace.yaml",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    "3000",
                ],
                cwd=ROOT,
                env={**os.environ, "DAGSTER_HOME": str(home)},
                check=False,
            ).returncode
    except ServerDidNotStart as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
