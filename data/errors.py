"""Errors a user can mend: one line each, with the exit code the command ends on."""

from __future__ import annotations


class OddsmithError(Exception):
    """Base of every error shown to a user as one line: file or row, rule, value, mend."""

    exit_code = 1


class SettingsError(OddsmithError):
    """A setting is unknown, mistyped or out of range."""

    exit_code = 2


class InputError(OddsmithError):
    """Input data or a model is missing, unreadable or breaks a rule."""

    exit_code = 3


class ResourceError(OddsmithError):
    """Disk, memory or numerics gave out."""

    exit_code = 4


class LeakError(OddsmithError):
    """The leakage audit found pairs that must not be."""

    exit_code = 5


class RemoteError(OddsmithError):
    """The Hub refused or could not be reached."""

    exit_code = 6


def closest(word: str, choices) -> str:
    """`; did you mean 'x'?` for the choice nearest to `word`, else the list of choices."""
    import difflib

    options = sorted(str(choice) for choice in choices)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(options)}"
