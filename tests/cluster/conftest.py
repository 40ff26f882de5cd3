"""A server that speaks S3 on the loopback, and workspaces whose vectors come from the fake runtime."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer import ingest
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.settings import Workspace
from loid_infer.store.reader import open_store
from tests.conftest import toy_texts, write_reviews

DUPLICATES = 40


def with_toys(workspace: Workspace, n: int = 400, domain: str = "toys") -> Workspace:
    """The workspace with a table of `n` different texts, some of them twice."""
    texts = toy_texts(n)
    ingest([write_reviews(workspace.root / "toys.jsonl", texts + texts[:DUPLICATES])], domain, workspace=workspace)
    return workspace


def fake_vectors(workspace: Workspace, encoder: str = "base") -> dict[bytes, bytes]:
    """The vectors of the fake runtime's store, by digest."""
    spec = structs.replace(open_folder(workspace.encoder(encoder), encoder).spec, precision="fake")
    key = fingerprint(spec)
    with open_store(workspace.store(key), spec, key) as store:
        return {
            bytes(digest): np.array(vector).tobytes()
            for chunk in store.scan()
            for digest, vector in zip(chunk.digests, chunk.vectors, strict=True)
        }


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of an empty bucket, whose credentials are in the environment."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install '.[cluster-dev]'")
    import logging

    from pyarrow.fs import FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        system, _ = FileSystem.from_uri("s3://shared/?allow_bucket_creation=true")
        system.create_dir("shared")
        yield "s3://shared"
    server.stop()


def put(address: str, path: Path) -> str:
    """Send a file to an address."""
    from loid_infer.data.addresses import delivered

    with delivered(address) as local:
        local.write_bytes(path.read_bytes())
    return address


def names(folder: Path) -> set[str]:
    """All files below a folder."""
    return {os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file()}
