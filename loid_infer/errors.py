"""The errors a user can cause or mend, in four parts: what, where, expected and got, and the command that mends it.

This file knows nothing of terminals or exit codes: `cli` prints a `LoidError` as one paragraph and exits 2.
Everything that is not a `LoidError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class LoidError(Exception):
    """A user error.

    Args:
        what: what is wrong, one clause without a full stop.
        where: file, line, field or folder it was found in.
        expected: what would have been right.
        got: what was found instead.
        mend: the command, or the act, that mends it.
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
    """A name that is not a slug, or that names nothing."""


class BadSetting(LoidError):
    """An option or setting outside its range, or two that contradict each other."""


class BadTable(LoidError):
    """A source file or canonical table that cannot be read as reviews."""


class BadArtifact(LoidError):
    """A folder under `exports/` that is absent, incomplete, altered or foreign."""


class BadStore(LoidError):
    """A store that is damaged, of another format, or of another spec."""


class StoreBusy(LoidError):
    """Another process is writing to the store."""


class NotEncoded(LoidError):
    """Vectors were asked for that the store does not hold."""


class ParityError(LoidError):
    """A graph or runtime whose vectors differ from the float32 reference by more than the gate allows."""


class RuntimeMissing(LoidError):
    """A runtime or precision that was asked for and that this machine cannot run."""


class NoSpace(LoidError):
    """The disk is full, or the folder cannot be written to."""


class NoMemory(LoidError):
    """A device has too little memory for the smallest piece of work."""
