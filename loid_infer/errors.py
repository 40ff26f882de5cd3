"""Errors caused by users or their machines. `cli` prints a `LoidError` as one paragraph and exits with code 2.

Every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class LoidError(Exception):
    """A user error.

    Args:
        what: what is wrong, as a clause without a full stop.
        where: the file, line, field or folder.
        expected: what would have been valid.
        got: the actual value.
        fix: a command or an instruction that solves it.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", got: str = "", fix: str = "") -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected or self.got:
            parts = [f"expected {self.expected}"] if self.expected else []
            parts += [f"got {self.got}"] if self.got else []
            text += f" ({', '.join(parts)})"
        text += "."
        return f"{text} {self.fix}" if self.fix else text


class BadName(LoidError):
    """An invalid name, or a name of something that does not exist."""


class BadSetting(LoidError):
    """An invalid option or setting, or two that contradict each other."""


class BadTable(LoidError):
    """A source file or canonical table that cannot be read as reviews."""


class BadArtifact(LoidError):
    """An artifact that is missing, incomplete, altered or of another kind."""


class BadStore(LoidError):
    """A store that is damaged, or of another format or spec."""


class StoreBusy(LoidError):
    """Another process is writing to the store."""


class NotEncoded(LoidError):
    """The store does not contain the requested vectors."""


class ParityError(LoidError):
    """Vectors of a graph or runtime differ from the float32 reference by more than the gate allows."""


class RuntimeMissing(LoidError):
    """This machine cannot run the requested runtime or precision."""


class NoSpace(LoidError):
    """The disk is full or not writable."""


class Unreachable(LoidError):
    """An address of an object store that cannot be read or written."""


class Stuck(LoidError):
    """Processes on other machines ended, or do not go on."""


class NoMemory(LoidError):
    """A device has too little memory for the smallest batch."""
