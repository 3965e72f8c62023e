"""One whole backup or restore as a process of its own, so that its time and memory can be taken from outside.

`python -m bench.once backup STACK NAME` prints the bytes stored; `… restore STACK NAME DATABASE` the raw bytes.
"""

import sys
from pathlib import Path
from typing import Any

from ops_platform.backups.backup import take_backup
from ops_platform.backups.choice import NEWEST
from ops_platform.backups.restore import Target, restore_backup
from ops_platform.backups.retrieval import identities_of
from ops_platform.stack import load_stack
from ops_platform.systems.object_store import ObjectStore


def quiet(_: Any) -> None:
    """Nobody looks on."""


if __name__ == "__main__":
    verb, stack_file, name, *rest = sys.argv[1:]
    stack = load_stack(Path(stack_file))
    store = ObjectStore(stack.bucket)
    if verb == "backup":
        print(take_backup(stack, name, store, quiet, quiet).backup.manifest.stored_bytes)
    else:
        keys = identities_of(stack.encryption)
        restored = restore_backup(stack, name, store, NEWEST, Target(database=rest[0]), keys, quiet, quiet)
        print(restored.backup.manifest.raw_bytes)
