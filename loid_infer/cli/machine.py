"""Commands on the machine: doctor."""

from __future__ import annotations

from loid_infer.cli.options import JsonOption, QuietOption, WorkspaceOption, place
from loid_infer.cli.terminal import show


def doctor(workspace: WorkspaceOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Tell what this machine can run, and what is wrong with it.

    Example: loid-infer doctor
    """
    from loid_infer.verbs.doctor import doctor as verb

    show(verb(workspace=place(workspace)), as_json=json)
