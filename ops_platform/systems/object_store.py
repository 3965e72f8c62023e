"""An S3 bucket: listing, reading, small writes, streamed uploads, deletions, abandoned uploads.

Spoken so that every S3-compatible store understands it: no checksum trailers (B2, R2 and older MinIO refuse
them), equal part sizes (R2 asks for them), single deletions (some stores refuse bulk delete), a Content-MD5
on each write, which makes the store refuse what was damaged on the way.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from ops_platform.stack import Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 1 << 20
MOST_PARTS = 10_000  # S3's limit, https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PARTS_IN_FLIGHT = 2  # of one upload; each costs its size in memory
# Standard mode waits rand(0..1) * min(2^n, 20) s between attempts, so twelve outlive an outage of a minute.
ATTEMPTS = 12
MOST_BREAKS = 5

Result = TypeVar("Result")


class StoreError(RuntimeError):
    """The object store refused or could not be reached; the first line says what to do."""


class NoSuchObject(StoreError):
    """There is no object under this key."""


@dataclass(frozen=True)
class ListedObject:
    key: str
    bytes: int
    changed: datetime


@dataclass(frozen=True)
class OpenUpload:
    """A multipart upload that was neither completed nor aborted; it is billed until it is."""

    key: str
    upload_id: str
    begun: datetime


@dataclass(frozen=True)
class Stored:
    """What an upload left: the object's size in bytes and its SHA-256, both of the stored bytes."""

    key: str
    bytes: int
    sha256: str


def part_size(estimate: int) -> int:
    """The size in bytes of each part so that an object of about `estimate` bytes stays below S3's part limit.

    8 MiB up to some 63 GiB; beyond, a tenth of the limit is left for an estimate that was too low.
    """
    return max(8 * MIB, -(-estimate // (MOST_PARTS * 8 // 10 * MIB)) * MIB)


_ADVICE = {
    "NoSuchBucket": "the bucket does not exist: create it, or correct bucket.name",
    "InvalidAccessKeyId": "the access key is unknown there: check bucket.access_key",
    "SignatureDoesNotMatch": "the secret key is wrong: check bucket.secret_key",
    "AccessDenied": "the key may not do this: give it read, write, list and delete on the bucket",
    "RequestTimeTooSkewed": "this machine's clock is off: set it (timedatectl set-ntp true)",
}


class ObjectStore:
    """One bucket. Every method raises StoreError; each request has a deadline of 60 s and is tried 12 times."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket.name
        self.where = bucket.endpoint or f"AWS S3 {bucket.region}"
        self._client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=bucket.endpoint,
            region_name=bucket.region,
            aws_access_key_id=bucket.access_key.reveal(),
            aws_secret_access_key=bucket.secret_key.reveal(),
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path" if bucket.endpoint else "auto"},
            ),
        )

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def check(self) -> None:
        """Ask whether the bucket is there and these keys may list it. Raises StoreError."""
        self._call("list", "", lambda: self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1))

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key begins with `prefix`, in key order, however many pages it takes."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in self._pages("list", prefix, pages):
            for item in page.get("Contents", []):
                yield ListedObject(item["Key"], item["Size"], item["LastModified"])

    def open_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """Multipart uploads under `prefix` that nobody finished."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in self._pages("list the open uploads of", prefix, pages):
            for item in page.get("Uploads", []):
                yield OpenUpload(item["Key"], item["UploadId"], item["Initiated"])

    def read(self, key: str) -> bytes:
        """A small object, whole. Raises NoSuchObject."""
        return self._call(
            "read", key, lambda: bytes(self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        )

    def open(self, key: str) -> Download:
        """A stream of an object's bytes, which goes on where it broke off. Raises NoSuchObject."""
        return Download(self, key)

    def size(self, key: str) -> int:
        """An object's size in bytes. Raises NoSuchObject."""
        head = self._call("look at", key, lambda: self._client.head_object(Bucket=self.bucket, Key=key))
        return head["ContentLength"]

    def write(self, key: str, body: bytes, content_type: str = "application/octet-stream") -> Stored:
        """Put a small object in one request: it is there whole or not at all."""
        self._call(
            "write",
            key,
            lambda: self._client.put_object(
                Bucket=self.bucket, Key=key, Body=body, ContentMD5=_md5(body), ContentType=content_type
            ),
        )
        return Stored(key, len(body), hashlib.sha256(body).hexdigest())

    def delete(self, key: str) -> None:
        """Delete one object; it is no error when it is gone already."""
        self._call("delete", key, lambda: self._client.delete_object(Bucket=self.bucket, Key=key))

    def abort(self, upload: OpenUpload) -> None:
        """Give up a multipart upload and its parts; it is no error when it is gone already."""
        try:
            self._call(
                "abort the upload of",
                upload.key,
                lambda: self._client.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload.key, UploadId=upload.upload_id
                ),
            )
        except NoSuchObject:
            return

    @contextmanager
    def upload(self, key: str, part_bytes: int) -> Iterator[Upload]:
        """Stream an object of unknown length; nothing stays when the block fails or never calls `finish`.

        Where the store cannot even be told so, the upload stays open and the next run's sweep ends it.
        """
        upload = Upload(self, key, part_bytes)
        try:
            yield upload
        finally:
            upload.close()

    def _pages(self, verb: str, what: str, pages: Any) -> Iterator[Any]:
        iterator = iter(pages)
        while (page := self._call(verb, what, lambda: next(iterator, None))) is not None:
            yield page

    def _call(self, verb: str, what: str, request: Callable[[], Result]) -> Result:
        try:
            return request()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            text = f"could not {verb} {self.uri(what)} at {self.where}"
            if code in ("NoSuchKey", "NoSuchUpload", "404"):
                raise NoSuchObject(f"{text}: it is not there ({code})") from error
            advice = _ADVICE.get(code, "the store's own message follows; try again, then ask its operator")
            raise StoreError(
                f"{text}: {advice} (HTTP {status}, {code}: {error.response.get('Error', {}).get('Message')})"
            ) from error
        except (BotoCoreError, OSError) as error:
            raise StoreError(
                f"could not {verb} {self.uri(what)}: {self.where} did not answer after"
                f" {ATTEMPTS} attempts: is it running, and bucket.endpoint right? ({error})"
            ) from error


class Download:
    """A readable stream of one object: a connection that breaks is made again from the byte it had come to."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._at = 0
        self._breaks = 0
        self._body = self._opened()

    def read(self, amount: int) -> bytes:
        """Up to `amount` bytes; b"" only at the end. Raises StoreError after five breaks without a byte between."""
        while True:
            try:
                piece: bytes = self._body.read(amount)
            except (BotoCoreError, HTTPError, OSError) as error:
                self._breaks += 1
                if self._breaks > MOST_BREAKS:
                    raise StoreError(
                        f"could not read {self._store.uri(self._key)}: the connection to {self._store.where} broke"
                        f" {MOST_BREAKS} times at byte {self._at:,}: look at the network ({error})"
                    ) from error
                self._body = self._opened()
                continue
            self._breaks = 0 if piece else self._breaks
            self._at += len(piece)
            return piece

    def _opened(self) -> Any:
        store, key, start = self._store, self._key, f"bytes={self._at}-"
        extra: Any = {"Range": start} if self._at else {}
        return store._call(
            "read", key, lambda: store._client.get_object(Bucket=store.bucket, Key=key, **extra)["Body"]
        )


class Upload:
    """A writable stream into one object, sent in equal parts; short ones go in a single request."""

    def __init__(self, store: ObjectStore, key: str, part_bytes: int) -> None:
        self._store, self._key, self._part_bytes = store, key, part_bytes
        self._sha256 = hashlib.sha256()
        self._buffer = bytearray()
        self._bytes = 0
        self._upload_id: str | None = None
        self._sender = ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="upload")
        self._sending: list[Future[CompletedPartTypeDef]] = []
        self._sent: list[CompletedPartTypeDef] = []
        self._number = 0

    def write(self, data: bytes) -> int:
        """Take the next bytes; blocks while too many parts are under way. Raises StoreError."""
        self._sha256.update(data)
        self._bytes += len(data)
        self._buffer += data
        while len(self._buffer) >= self._part_bytes:
            part = bytes(memoryview(self._buffer)[: self._part_bytes])
            del self._buffer[: self._part_bytes]
            self._send(part)
        return len(data)

    def flush(self) -> None:
        """Part of a writable stream; parts go when they are full."""

    def finish(self) -> Stored:
        """Send what is left, make the object appear, and ask the store for its size. Raises StoreError."""
        if self._upload_id is None:
            self._store.write(self._key, bytes(self._buffer))
        else:
            if self._buffer:
                self._send(bytes(self._buffer))
            while self._sending:
                self._sent.append(self._sending.pop(0).result())
            self._complete(self._upload_id)
            self._upload_id = None
        size = self._store.size(self._key)
        if size != self._bytes:
            self._store.delete(self._key)
            raise StoreError(
                f"{self._store.uri(self._key)}: the store holds {size:,} bytes, {self._bytes:,} were sent;"
                " it was deleted: run the backup again, and distrust this store if it recurs"
            )
        return Stored(self._key, self._bytes, self._sha256.hexdigest())

    def close(self) -> None:
        """End the senders and abort an upload that was not finished."""
        self._sender.shutdown(wait=True, cancel_futures=True)
        if self._upload_id is not None:
            with suppress(StoreError):  # the store is away: the failure that brought us here says so already
                self._store.abort(OpenUpload(self._key, self._upload_id, datetime.min))  # noqa: DTZ901

    def _send(self, part: bytes) -> None:
        store, key = self._store, self._key
        if self._upload_id is None:
            self._upload_id = store._call(
                "begin the upload of",
                key,
                lambda: store._client.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"],
            )
        if len(self._sending) >= PARTS_IN_FLIGHT:
            self._sent.append(self._sending.pop(0).result())
        self._number += 1
        if self._number > MOST_PARTS:
            raise StoreError(f"{store.uri(key)}: more than {MOST_PARTS:,} parts of {self._part_bytes:,} bytes")
        self._sending.append(self._sender.submit(self._send_part, self._upload_id, self._number, part))

    def _send_part(self, upload_id: str, number: int, part: bytes) -> CompletedPartTypeDef:
        store, key = self._store, self._key
        answer = store._call(
            f"upload part {number} of",
            key,
            lambda: store._client.upload_part(
                Bucket=store.bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=part,
                ContentMD5=_md5(part),
            ),
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(self, upload_id: str) -> None:
        store, key = self._store, self._key
        store._call(
            "complete the upload of",
            key,
            lambda: store._client.complete_multipart_upload(
                Bucket=store.bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": self._sent}
            ),
        )


def _md5(body: bytes) -> str:
    """RFC 1864's Content-MD5: against damage on the way, not against people."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
