"""What of an error leaves a process, and how much of it."""

from __future__ import annotations

from tercet.errors import ProgramError
from tercet.service.failures import MAX_TEXT, to_error, to_failure


def test_a_text_that_quotes_its_sender_is_bounded() -> None:
    failure = to_failure(ProgramError("unknown operation " + "x" * 10_000_000, "y" * 10_000_000))
    assert (len(failure.message), len(failure.remedy)) == (MAX_TEXT, MAX_TEXT)
    assert isinstance(to_error(failure), ProgramError)
