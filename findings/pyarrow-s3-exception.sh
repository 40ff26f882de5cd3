#!/bin/sh
# pyarrow 26.0.1: an exception inside `with filesystem.open_output_stream("bucket/name") as stream` does not abort the upload.
# Leaving the block completes it, and an object of what was written so far appears under its final name. On S3 a file is
# otherwise there completely or not at all, so a reader has no reason to expect this. (A killed process leaves nothing.)
# loid-infer writes a local file first, sends it whole, compares the size, and deletes the object after an error.
# Seen, against moto's server:
#   after an exception in the block     an object of 10 bytes
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1 moto==5.2.5 flask==3.1.3 flask-cors==6.0.5 \
    py-partiql-parser==0.6.3
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import os

os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileType, S3FileSystem

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
system = S3FileSystem(
    endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
)
system.create_dir("bucket")
try:
    with system.open_output_stream("bucket/vectors.parquet") as stream:
        stream.write(b"0123456789")
        raise KeyError("the rest could not be computed")
except KeyError:
    pass
info = system.get_file_info("bucket/vectors.parquet")
print("after an exception in the block:", info.type, info.size)
server.stop()
assert (info.type, info.size) == (FileType.File, 10), "the behavior changed"
PY
