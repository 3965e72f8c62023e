"""One whole backup as a process of its own, so that its time and memory can be taken from outside."""

import sys
from pathlib import Path

from ops_platform.backups.backup import take_backup
from ops_platform.stack import load_stack
from ops_platform.systems.object_store import ObjectStore

if __name__ == "__main__":
    stack = load_stack(Path(sys.argv[1]))
    taken = take_backup(stack, sys.argv[2], ObjectStore(stack.bucket), lambda line: None, lambda progress: None)
    print(taken.backup.manifest.stored_bytes)
