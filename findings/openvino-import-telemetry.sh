#!/bin/sh
# `import openvino` alone, without converting a model, sends a usage event: it imports openvino.tools.ovc, whose import calls
# Telemetry.send_event. Nothing asks for consent first, and a missing consent file counts as consent. The same import
# without the package openvino-telemetry sends nothing and works.
#
# Seen with openvino 2026.4.1 and openvino-telemetry 2025.2.0 (the call is recorded here instead of sent):
#   import openvino: events [('ov', 'import', 'general_import')]
#   with openvino_telemetry hidden: ['CPU'] and no event
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openvino==2026.4.1 openvino-telemetry==2025.2.0
HOME="$work" "$work/venv/bin/python" - <<'PY'
import openvino_telemetry
events = []
openvino_telemetry.Telemetry.send_event = lambda self, *event, **options: events.append(event)
import openvino
print(f"import openvino: events {events}")
assert events == [("ov", "import", "general_import")], "its import sends nothing by now"
PY
HOME="$work" "$work/venv/bin/python" - <<'PY'
import sys
sys.modules["openvino_telemetry"] = None
import openvino
print(f"with openvino_telemetry hidden: {openvino.Core().available_devices} and no event")
PY
