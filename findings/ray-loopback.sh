#!/bin/sh
# ray 2.60.0 on Linux: ray.init() starts servers that listen on all interfaces, and ray.init(_node_ip_address="127.0.0.1")
# does, too: that address is replaced by the machine's own. What keeps a local cluster on the loopback is the environment
# variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, set before ray is imported, which by its name is for other systems.
# loid-infer sets it for the clusters that `encode --ray` starts itself.
# Seen, listening sockets that are reachable from other machines:
#   ray.init()                                        6
#   ray.init(_node_ip_address="127.0.0.1")            6
#   with RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0          0
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cat > "$work/count.py" <<'PY'
import sys
from pathlib import Path

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def reachable() -> set[str]:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[3] == "0A" and line[1].partition(":")[0] not in LOOPBACK}


before = reachable()
import ray

options = {"_node_ip_address": "127.0.0.1"} if sys.argv[1] == "given" else {}
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, **options)
print(len(reachable() - before))
ray.shutdown()
PY
run() { "$work/venv/bin/python" "$work/count.py" "$1" 2>/dev/null; }
plain=$(run plain); given=$(run given)
local=$(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 run plain)
echo "ray.init(): $plain, with _node_ip_address: $given, with the variable: $local"
test "$plain" -gt 0 && test "$given" -gt 0 && test "$local" -eq 0 || { echo "the behavior changed"; exit 1; }
