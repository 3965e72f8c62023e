"""Running client tools, here or inside a container: commands, their deadlines, exit codes and last words.

Secrets reach a tool through its environment only; in a container by the variable's name (`docker exec -e
NAME`), so that no value stands in any argument list.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PIPE_BYTES = 1 << 20  # Linux's default limit for an unprivileged pipe; fewer context switches than 64 KiB
LAST_WORDS_BYTES = 8192
_SCRATCH = """umask 77
find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'ops-scratch.*' -user "$(id -u)" -mmin +1500 -exec rm -f {} +
file=$(mktemp "${TMPDIR:-/tmp}/ops-scratch.XXXXXX") && cat >"$file" && echo "$file"
"""


class ToolMissing(RuntimeError):
    """A client tool is not installed; the message says which and where it was looked for."""


class CommandFailed(RuntimeError):
    """A tool exited non-zero or passed its deadline. `last_words` is the end of what it said."""

    def __init__(self, program: str, code: int | None, last_words: str) -> None:
        how = "passed its deadline and was stopped" if code is None else f"exited with {code}"
        super().__init__(f"{program} {how}: {last_words.strip() or 'it said nothing'}")
        self.program, self.code, self.last_words = program, code, last_words

    def advised(self, advice: Sequence[tuple[str, str]]) -> str:
        """What to do, by the first of `advice`'s signs that the message holds, then the message itself."""
        text = next((text for sign, text in (*advice, *_ENGINE) if sign in str(self)), "its own message follows")
        return f"{text}\n{self}"


_ENGINE = (
    ("No such container", "there is no such container: check the server's `container`"),
    ("is not running", "the container is stopped: start it"),
    ("no space left on device", "the disk is full: make room (docker system df)"),
    ("Cannot connect to the Docker daemon", "the Docker Engine is away: start it, or check DOCKER_HOST"),
)


@dataclass(frozen=True)
class Host:
    """Where tools run: here (`container` None, programs looked for in `directories`, then PATH) or inside it."""

    container: str | None = None
    directories: tuple[str, ...] = ()

    def command(self, program: str, arguments: Sequence[str], secrets: Mapping[str, str]) -> list[str]:
        """The argument list that runs `program`; `secrets` gives variable names only. Raises ToolMissing."""
        if self.container is not None:
            names = [part for name in secrets for part in ("-e", name)]
            return ["docker", "exec", "-i", *names, self.container, program, *arguments]
        return [self.find(program), *arguments]

    @contextmanager
    def running(
        self, program: str, arguments: Sequence[str], secrets: Mapping[str, str], deadline_s: float
    ) -> Iterator[Child]:
        """`running`, here or in the container. Raises ToolMissing."""
        with running(
            self.command(program, arguments, secrets), secrets, program=program, deadline_s=deadline_s
        ) as child:
            yield child

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        secrets: Mapping[str, str],
        deadline_s: float,
        stdin: bytes = b"",
    ) -> bytes:
        """`run`, here or in the container. Raises CommandFailed, ToolMissing."""
        command = self.command(program, arguments, secrets)
        return run(command, secrets, program=program, deadline_s=deadline_s, stdin=stdin)

    @contextmanager
    def scratch(self, fill: Callable[[Child], None], deadline_s: float) -> Iterator[str]:
        """A file where the tools run, holding what `fill` writes; yields its path. Raises CommandFailed, ToolMissing.

        Those of killed runs are removed a day later.
        """
        with self.running("sh", ["-c", _SCRATCH], {}, deadline_s) as child:
            fill(child)
            child.stdin.close()
            path = child.stdout.read().decode().strip()
            child.finish()
        try:
            yield path
        finally:
            self.run("rm", ["-f", path], {}, 60)

    def find(self, program: str) -> str:
        """The path of a local program. Raises ToolMissing."""
        for directory in self.directories:
            candidate = Path(directory) / program
            if os.access(candidate, os.X_OK):
                return str(candidate)
        found = shutil.which(program)
        if found is None:
            looked = ", ".join([*self.directories, "PATH"])
            raise ToolMissing(f"{program} is not installed (looked in {looked}): install the client package")
        return found


@dataclass
class Child:
    """A running tool whose standard error is kept to its last words."""

    program: str
    process: subprocess.Popen[bytes]
    overdue: bool = False
    _words: bytearray = field(default_factory=bytearray)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data` to the tool. Raises BrokenPipeError when it reads no more."""
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]  # type: ignore[union-attr]
        return len(data)

    def flush(self) -> None:
        """Part of a writable stream; nothing is held back."""

    def last_words(self) -> str:
        return bytes(self._words).decode("utf-8", "replace")

    def wait(self) -> int:
        """Wait for the end (the deadline bounds it) and return the exit code, whatever it is."""
        code = self.process.wait()
        for thread in self._threads:
            thread.join(5)
        return code

    def finish(self) -> None:
        """Wait for the end. Raises CommandFailed for any exit code but 0, and for a passed deadline."""
        code = self.wait()
        if code != 0 or self.overdue:
            raise CommandFailed(self.program, None if self.overdue else code, self.last_words())

    def kill(self) -> None:
        self.process.kill()

    def _expire(self) -> None:
        self.overdue = True
        self.process.kill()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        while chunk := self.process.stderr.read(4096):
            self._words += chunk
            del self._words[:-LAST_WORDS_BYTES]


@contextmanager
def running(
    command: Sequence[str], secrets: Mapping[str, str], *, program: str, deadline_s: float
) -> Iterator[Child]:
    """Start a tool with all three streams piped; it is killed at the deadline and on leaving the block.

    Raises ToolMissing when the command itself cannot be started.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **secrets},
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches us alone; we then end our children in order
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{command[0]} is not installed: install it where the run starts") from error
    child = Child(program, process)
    with suppress(OSError, AttributeError):  # Linux only, and refused to a user with many large pipes
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    listener = threading.Thread(target=child._listen, daemon=True)
    listener.start()
    child._threads.append(listener)
    timer = threading.Timer(deadline_s, child._expire)
    timer.daemon = True
    timer.start()
    try:
        yield child
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # the tool ended before it read all: its exit code has said why
                    stream.close()
        listener.join(5)


def run(
    command: Sequence[str],
    secrets: Mapping[str, str],
    *,
    program: str,
    deadline_s: float,
    stdin: bytes = b"",
) -> bytes:
    """Run a tool to its end and return its standard output. Raises CommandFailed, ToolMissing."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=deadline_s,
            env={**os.environ, "LC_ALL": "C.UTF-8", **secrets},
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{command[0]} is not installed: install it where the run starts") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(program, None, (error.stderr or b"").decode("utf-8", "replace")) from None
    if done.returncode != 0:  # what keeps `docker exec` from starting a program stands on its standard output
        words = (done.stderr or done.stdout)[-LAST_WORDS_BYTES:]
        raise CommandFailed(program, done.returncode, words.decode("utf-8", "replace"))
    return done.stdout
