#!/bin/sh
# transformers 5 saves a decoder's rotary base under rope_parameters. transformers 4.57 loads that config without a warning
# and uses the default base of the class, so the same folder gives different vectors in the two releases.
#
# Seen with transformers 5.24.0 (writes) and 4.57.6 (reads), Python 3.11:
#   5.24.0 wrote: rope_theta at the top level: False, rope_parameters: {'rope_theta': 500000.0, 'rope_type': 'default'}
#   4.57.6 reads: rope_theta 10000.0
# Programs that read config.json themselves must support both field names.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for release in 5.24.0 4.57.6; do
    python3 -m venv "$work/$release"
    "$work/$release/bin/pip" install -q "transformers==$release"
done
"$work/5.24.0/bin/python" - "$work/model" <<'PY' 2>/dev/null
import json, pathlib, sys
from transformers import LlamaConfig
LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}).save_pretrained(sys.argv[1])
config = json.loads((pathlib.Path(sys.argv[1]) / "config.json").read_text())
print("5.24.0 wrote: rope_theta at the top level:", "rope_theta" in config, ", rope_parameters:", config.get("rope_parameters"))
assert "rope_theta" not in config and config["rope_parameters"]["rope_theta"] == 500000.0
PY
"$work/4.57.6/bin/python" - "$work/model" <<'PY' 2>/dev/null
import sys
from transformers import LlamaConfig
read = LlamaConfig.from_pretrained(sys.argv[1]).rope_theta
print("4.57.6 reads: rope_theta", read)
assert read == 10000.0, "rope_parameters is now read"
PY
