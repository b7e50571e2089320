"""What git says, for those who only read from it."""

import subprocess


def git_bytes(*arguments: str, given: bytes = b"") -> bytes | None:
    """What git prints; None where it fails, or where there is no git or no repository.

    Args:
        arguments: of git; names of people's choice only where git takes them for no option.
        given: to its standard input.
    """
    try:
        return subprocess.run(
            ["git", *arguments], input=given, capture_output=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def git(*arguments: str) -> str | None:
    """The same as text."""
    data = git_bytes(*arguments)
    return None if data is None else data.decode(errors="replace")


def commit_of(revision: str) -> str | None:
    """The full name of the commit that a person names, whatever it begins with; None where there is none."""
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return commit.strip() if commit else None
