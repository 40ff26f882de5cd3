#!/bin/sh
# openvino 2026.4.1 on Linux: each process binds its threads to the first processors (ENABLE_CPU_PINNING is on by default), and
# does not know of other processes. Two that have one thread each, on two processors, share the first while the second
# idles: MiniLM ran at 1,783 tokens/s in both together, and at 3,110 with ENABLE_CPU_PINNING=NO. Several workers or array
# tasks on one machine are such processes. loid-infer binds threads only where one process takes all processors.
# Seen, processors that the computing thread of each of two processes may use:
#   by default                    the same one
#   ENABLE_CPU_PINNING=NO         all
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1
cat > "$work/bound.py" <<'PY'
import os
import sys
import time

import numpy as np
import openvino
from openvino import opset8

everything = tuple(sorted(os.sched_getaffinity(0)))
if len(everything) < 2:
    sys.exit("needs two processors")
given = opset8.parameter([1500, 1500], np.float32)
model = openvino.Model([opset8.matmul(given, given, False, False)], [given])
options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
if sys.argv[1] == "no":
    options["ENABLE_CPU_PINNING"] = "NO"
requests = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", options), 2)
bound, end = set(), time.monotonic() + 2
while time.monotonic() < end:  # threads are bound while they compute
    requests.start_async([np.ones((1500, 1500), np.float32)])
    bound |= {tuple(sorted(os.sched_getaffinity(int(task)))) for task in os.listdir("/proc/self/task")}
requests.wait_all()
print(sorted(bound - {everything}) or "all")
PY
run() { "$work/venv/bin/python" "$work/bound.py" "$1"; }
first=$(run default); second=$(run default); free=$(run no)
echo "by default: $first and $second, without pinning: $free"
test "$first" = "$second" && test "$first" != all && test "$free" = all || { echo "the behavior changed"; exit 1; }
