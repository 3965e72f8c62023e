"""Two schemas as pg_dump prints them, object by object, and how they differ: pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

_HEADING = re.compile(r"^-- Name: (.*); Type: (.*); Schema: (.*); Owner: (.*)$")
# Postgres prints `x IN ('a', 'b')` on a varchar column otherwise once it has read back what it printed: it moves
# casts from the array to its elements (ruleutils.c). So casts and parentheses do not count.
_CAST = re.compile(
    r"""::(?:"[^"]+"|[a-z_][\w$]*)(?:\.(?:"[^"]+"|[\w$]+))?
    (?:\ varying|\ precision|\ with(?:out)?\ time\ zone)?(?:\([\d,]+\))?(?:\[\])*""",
    re.VERBOSE,
)


def fingerprints(lines: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each object's definition by its kind and name, from a schema that pg_dump printed.

    Definitions that differ only in casts, parentheses and white space are one.
    """
    found: dict[str, str] = {}
    for name, text in _objects(lines):
        plain = re.sub(r"[()\s]+", "", _CAST.sub("", text))
        seen = found.get(name, "")  # several entries of one name (ACLs of a table's columns) count together
        found[name] = hashlib.sha256((seen + plain).encode()).hexdigest()
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
    """What is missing, extra or otherwise, by name."""
    missing = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    extra = [f"{name} is there and should not be" for name in sorted(found.keys() - expected.keys())]
    both = sorted(expected.keys() & found.keys())
    return (*missing, *extra, *(f"{name} differs" for name in both if expected[name] != found[name]))


def fingerprint(objects: dict[str, str]) -> str:
    """One SHA-256 of a whole schema, whatever the order of its objects."""
    return hashlib.sha256("\n".join(f"{name} {objects[name]}" for name in sorted(objects)).encode()).hexdigest()


def _objects(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    name, text = "", list[str]()
    for line in lines:
        if heading := _HEADING.match(line):
            if name:
                yield name, "\n".join(text)
            schema = "" if heading[3] == "-" else f"{heading[3]}."
            name, text = f"{heading[2].lower()} {schema}{heading[1]}", [f"owner {heading[4]}"]
        elif not line.startswith(("--", "\\restrict", "\\unrestrict")):
            text.append(line)
    if name:
        yield name, "\n".join(text)
