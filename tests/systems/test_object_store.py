"""The object store against a real S3 server: streams in equal parts, nothing half-written, paging, sweeps."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from ops_platform.backups.catalog import sweep
from ops_platform.backups.layout import BackupPath, new_id
from ops_platform.stack import Stack
from ops_platform.systems.object_store import MIB, MOST_PARTS, NoSuchObject, ObjectStore, part_size
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import StackOf, keys

PART = 5 * MIB


@pytest.fixture
def stack(stack_of: StackOf) -> Stack:
    return stack_of()


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 2 * PART + 17])
def test_a_stream_arrives_as_it_was_sent(stack: Stack, size: int) -> None:
    store, key = ObjectStore(stack.bucket), f"{stack.bucket.prefix}/stream"
    body = bytes(range(251)) * (size // 251 + 1)
    with store.upload(key, PART) as upload:
        for start in range(0, size, 300_000):
            upload.write(body[start : min(start + 300_000, size)])
        stored = upload.finish()
    assert store.read(key) == body[:size]
    assert (stored.bytes, stored.sha256) == (size, hashlib.sha256(body[:size]).hexdigest())
    assert not list(store.open_uploads(stack.bucket.prefix))


def test_a_stream_that_breaks_leaves_nothing(stack: Stack) -> None:
    store, key = ObjectStore(stack.bucket), f"{stack.bucket.prefix}/broken"
    with pytest.raises(ZeroDivisionError), store.upload(key, PART) as upload:
        upload.write(b"x" * (2 * PART + 1))
        raise ZeroDivisionError
    assert not keys(store, key)
    assert not list(store.open_uploads(stack.bucket.prefix))
    with pytest.raises(NoSuchObject, match="it is not there"):
        store.read(key)


def test_the_server_refuses_what_was_damaged_on_the_way(stack: Stack, s3: S3Server) -> None:
    """The Content-MD5 that every write carries is heeded by the server."""
    with pytest.raises(ClientError, match="Digest"):
        s3.client().put_object(  # type: ignore[attr-defined]
            Bucket="backups", Key="damaged", Body=b"damaged", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg=="
        )


@pytest.mark.slow
def test_listing_goes_past_a_thousand_keys(stack: Stack) -> None:
    store, prefix = ObjectStore(stack.bucket), f"{stack.bucket.prefix}/many/"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write(f"{prefix}{number:04}", b"x"), range(1_050)))
    assert keys(store, prefix) == [f"{prefix}{number:04}" for number in range(1_050)]


def test_parts_stay_below_the_stores_limit() -> None:
    assert part_size(0) == part_size(60 * 1024 * MIB) == 8 * MIB
    for estimate in (10**11, 10**12, 4 * 10**13):
        assert estimate * 1.2 < part_size(estimate) * MOST_PARTS


def test_sweep_removes_what_is_unfinished_for_a_day_and_nothing_else(stack: Stack) -> None:
    store, prefix = ObjectStore(stack.bucket), stack.bucket.prefix
    now = datetime.now(UTC)
    old = BackupPath(prefix, "market", new_id(now - timedelta(hours=25)))
    young = BackupPath(prefix, "market", new_id(now - timedelta(hours=2)))
    whole = BackupPath(prefix, "market", new_id(now - timedelta(days=40)))
    for path in (old, young, whole):
        store.write(path.key("schema.dump.zst"), b"x")
        store.write(path.key("note.txt"), b"not ours")
    store.write(whole.key("manifest.json"), b"{}")
    store.write(f"{prefix}/market2/stranger", b"x")
    upload = store._client.create_multipart_upload(Bucket=store.bucket, Key=young.key("globals.sql.zst"))
    assert sweep(store, prefix, "market", None, now) == (old.key("schema.dump.zst"),)
    assert [u.upload_id for u in store.open_uploads(prefix)] == [upload["UploadId"]]
    swept = sweep(store, prefix, "market", None, now + timedelta(days=1, minutes=1))
    assert set(swept) == {young.key("schema.dump.zst"), young.key("globals.sql.zst") + " (open upload)"}
    left = {path.key("note.txt") for path in (old, young, whole)}
    left |= {whole.key("schema.dump.zst"), whole.key("manifest.json"), f"{prefix}/market2/stranger"}
    assert set(keys(store, prefix)) == left
