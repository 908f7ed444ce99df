"""A real S3 protocol server for tests: moto on a free port, with one bucket."""

from collections.abc import Iterator

import pytest

from raystill import storage


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`s3://bucket/prefix` on a fresh server that AWS_ENDPOINT_URL names."""
    import boto3
    import httpx
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()  # all servers of a process share one memory
    storage._client.cache_clear()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket/prefix"
    storage._client.cache_clear()
    server.stop()
