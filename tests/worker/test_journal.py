import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.journal import READ_BYTES, JournalCorrupt, JournalReader, JournalWriter
from worker.protocol import MetricsRecord, frame, unframe


def metrics(iteration: int) -> MetricsRecord:
    return MetricsRecord(iteration=iteration, timesteps=iteration * 8, metrics={"train/loss": iteration / 3})


def test_what_was_appended_is_read_in_order_and_to_the_bit(tmp_path: Path) -> None:
    writer, reader = JournalWriter(tmp_path / "journal"), JournalReader(tmp_path / "journal")
    for iteration in range(1, 4):
        writer.append(metrics(iteration))
    assert [record for record, _ in reader.read()] == [metrics(1), metrics(2), metrics(3)]


def test_a_number_that_is_not_finite_never_gets_into_a_record() -> None:
    with pytest.raises(ValidationError):
        MetricsRecord(iteration=1, timesteps=8, metrics={"train/loss": float("nan")})


def test_a_reader_stays_until_it_is_advanced(tmp_path: Path) -> None:
    writer, reader = JournalWriter(tmp_path / "journal"), JournalReader(tmp_path / "journal")
    writer.append(metrics(1))
    writer.append(metrics(2))
    (_, behind_first), _ = reader.read()
    assert len(reader.read()) == 2
    reader.advance(behind_first)
    assert [record for record, _ in reader.read()] == [metrics(2)]


def test_nothing_is_read_where_there_is_no_journal_yet(tmp_path: Path) -> None:
    assert JournalReader(tmp_path / "journal").read() == []


@pytest.mark.parametrize("missing", range(1, len(frame(metrics(2))) + 1))
def test_a_line_that_is_still_being_written_does_not_count_yet(tmp_path: Path, missing: int) -> None:
    whole = frame(metrics(1)) + frame(metrics(2))
    (tmp_path / "journal").write_bytes(whole[:-missing])
    reader = JournalReader(tmp_path / "journal")
    assert [record for record, _ in reader.read()] == [metrics(1)]
    (tmp_path / "journal").write_bytes(whole)
    assert [record for record, _ in reader.read()] == [metrics(1), metrics(2)]


def test_a_torn_line_ends_the_journal_and_is_told(tmp_path: Path) -> None:
    torn = bytearray(frame(metrics(2)))
    torn[20] ^= 1
    (tmp_path / "journal").write_bytes(frame(metrics(1)) + bytes(torn) + frame(metrics(3)))
    assert [record for record, _ in unframe((tmp_path / "journal").read_bytes())] == [metrics(1)]
    with pytest.raises(JournalCorrupt, match=f"byte {len(frame(metrics(1)))}"):
        JournalReader(tmp_path / "journal").read()


def test_a_journal_longer_than_one_read_is_read_whole(tmp_path: Path) -> None:
    count = READ_BYTES // len(frame(metrics(1))) + 100
    (tmp_path / "journal").write_bytes(b"".join(frame(metrics(1)) for _ in range(count)))
    reader, found = JournalReader(tmp_path / "journal"), 0
    while records := reader.read():
        found += len(records)
        reader.advance(records[-1][1])
    assert found == count


FILL = """
import resource, sys
from pathlib import Path
from tests.worker.test_journal import metrics
from worker.journal import JournalWriter
writer = JournalWriter(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
for iteration in range(1, 100):
    try:
        writer.append(metrics(iteration))
    except OSError as error:
        print(iteration, error.errno)
        break
"""


def test_a_record_for_which_there_is_no_space_leaves_no_trace(tmp_path: Path) -> None:
    kept = b"".join(frame(metrics(iteration)) for iteration in (1, 2, 3))
    room = len(kept) + 20
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "journal"), str(room)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["4", "27"]  # EFBIG, as the limit on a file's size says it.
    assert (tmp_path / "journal").read_bytes() == kept
