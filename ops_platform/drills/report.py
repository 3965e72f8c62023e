"""What came of a drill, and its report for people: an operator, an auditor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ops_platform.backups.catalog import Backup
from ops_platform.backups.manifest import PostgresFacts
from ops_platform.backups.verification import Finding
from ops_platform.drills.figures import Figures


@dataclass(frozen=True)
class Drill:
    """What came of a drill. `findings` has one for each check of its kind; `kept` says how to reach a kept server."""

    name: str
    backup: Backup
    begun: datetime
    findings: tuple[Finding, ...]
    figures: Figures
    server: str
    kept: str | None
    report_key: str

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)


def write_report(drill: Drill, checks: Mapping[str, str]) -> str:
    """The report in Markdown; `checks` says what each check means."""
    return (
        "\n".join([*_head(drill), *_figures(drill.figures), *_checks(drill, checks), *_backup(drill.backup)]) + "\n"
    )


def duration(seconds: float) -> str:
    """`93784` → `1 d 2 h 3 min`; below a minute `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    words = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{rest} min" if rest else ""]
    return " ".join(word for word in words if word)


def _head(drill: Drill) -> list[str]:
    backup, figures = drill.backup, drill.figures
    failed = [finding.check for finding in drill.findings if not finding.passed]
    verdict = "**PASSED**" if drill.passed else f"**FAILED**: {', '.join(failed)}"
    return [
        f"# Restore drill of {drill.name}, {drill.begun:%Y-%m-%d %H:%M} UTC",
        "",
        f"Verdict: {verdict}",
        "",
        f"Backup `{backup.path.id}`, taken {backup.manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC, was restored in"
        f" {duration(figures.rto_s)} on a throw-away server ({drill.server}) and held against its manifest.",
        *([f"The server is {drill.kept}."] if drill.kept else []),
    ]


def _figures(figures: Figures) -> list[str]:
    rows = [
        ("Recovery time (RTO)", duration(figures.rto_s)),
        *((f"– {part}", duration(seconds)) for part, seconds in figures.parts.items()),
        ("Data that would have been lost (RPO): age of the backup", duration(figures.rpo_s)),
        ("Longest time without a good backup, of those kept", duration(figures.largest_gap_s)),
        (
            "Speed of the load",
            f"{figures.bytes_per_s / 1e6:,.1f} MB/s, {figures.rows_per_s:,.0f} rows or keys a second",
        ),
    ]
    return [
        "",
        "## Figures",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]


def _checks(drill: Drill, checks: Mapping[str, str]) -> list[str]:
    lines = ["", "## Checks", "", "| check | verdict | what it says | numbers |", "|---|---|---|---|"]
    for finding in drill.findings:
        numbers = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in finding.numbers.items())
        verdict = "passed" if finding.passed else "**failed**"
        lines.append(f"| {finding.check} | {verdict} | {_cell(checks[finding.check])} | {numbers} |")
    for finding in drill.findings:
        if not finding.passed:
            lines += ["", f"### {finding.check} failed", "", *(f"- {_cell(fault)}" for fault in finding.faults[:50])]
            lines += [f"- and {len(finding.faults) - 50} more"] if len(finding.faults) > 50 else []
    return lines


def _backup(backup: Backup) -> list[str]:
    manifest = backup.manifest
    source = manifest.source
    if isinstance(source, PostgresFacts):
        what = f"database {source.database} of Postgres {source.server_version}"
    else:
        what = f"Redis {source.server_version}"
    return [
        "",
        "## Backup",
        "",
        f"{what}; {manifest.raw_bytes:,} bytes raw, {manifest.stored_bytes:,} bytes stored in"
        f" `{backup.path.folder}`, {'encrypted (age)' if manifest.encryption else 'not encrypted'}.",
        "",
        "| object | stored bytes | SHA-256 |",
        "|---|---|---|",
        *(f"| {stored.file} | {stored.stored_bytes:,} | `{stored.sha256}` |" for stored in manifest.objects),
    ]


def _shown(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
