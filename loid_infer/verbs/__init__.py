"""One module per command: functions that take a workspace and settings and return frozen results."""
