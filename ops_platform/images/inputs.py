"""What an image is made from, as one hash: the same inputs are never built twice."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from ops_platform.systems.command import CommandFailed, ToolMissing, run

GIT_S = 30.0


def fingerprint(context: Path) -> str:
    """SHA-256, in hex, over every file's path, mode and content in `context`. Raises OSError."""
    total = hashlib.sha256()
    for path in sorted(context.rglob("*")):
        if "__pycache__" in path.parts or not (path.is_symlink() or path.is_file()):
            continue
        mode = path.lstat().st_mode
        body = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        executable = "x" if mode & stat.S_IXUSR else "-"
        total.update(f"{path.relative_to(context)}\0{executable}\0{len(body)}\0".encode())
        total.update(body)
    return total.hexdigest()


def revision(context: Path) -> str:
    """The git revision of `context`, with `-dirty` when files in it differ from it; `unversioned` outside git."""
    try:
        head = run(
            ["git", "-C", str(context), "rev-parse", "--short=12", "HEAD"], {}, program="git", deadline_s=GIT_S
        )
        status = ["git", "-C", str(context), "status", "--porcelain", "--", "."]
        changed = run(status, {}, program="git status", deadline_s=GIT_S)
    except (CommandFailed, ToolMissing):
        return "unversioned"
    return head.decode().strip() + ("-dirty" if changed.strip() else "")
