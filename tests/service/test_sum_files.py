"""The files of stored sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from tercet.errors import StorageError, WorkerError
from tercet.protocol.replicated.sharing import output_digest
from tercet.service.sum_files import read_sum, write_sum


def test_a_sum_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    path, summand = tmp_path / "a.sum", bytes(range(250)) * 4
    write_sum(path, memoryview(summand))
    digest = output_digest(summand)
    assert read_sum(path, digest) == summand
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a.sum"]
    path.write_bytes(summand[:-1])
    with pytest.raises(WorkerError, match="is damaged"):
        read_sum(path, digest)
    path.unlink()
    with pytest.raises(WorkerError, match="cannot be read"):
        read_sum(path, digest)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="refuses to store the sum"):
        write_sum(tmp_path / "nowhere" / "a.sum", memoryview(b"x"))
