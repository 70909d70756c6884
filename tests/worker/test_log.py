from pathlib import Path

from worker import log
from worker.log import LogReader


def test_text_is_read_once_and_a_character_never_in_halves(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = LogReader(path)
    path.write_bytes("grün".encode()[:3])  # The first of the two bytes of ü.
    text, offset = reader.read()
    assert (text, offset) == ("gr", 2)
    reader.advance(offset)
    path.write_bytes("grün\n".encode())
    text, offset = reader.read()
    assert (text, offset) == ("ün\n", 6)
    reader.advance(offset)
    assert reader.read() == ("", 6)


def test_bytes_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\xff\x00b\n")
    assert LogReader(tmp_path / "log").read()[0] == "a\ufffd\ufffdb\n"


def test_of_very_much_only_the_end_is_read_and_the_gap_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100 + b"y" * log.READ_BYTES)
    text, offset = LogReader(tmp_path / "log").read()
    assert text == "\n[100 bytes left out]\n" + "y" * log.READ_BYTES
    assert offset == 100 + log.READ_BYTES


def test_a_file_that_has_grown_without_end_starts_anew(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(log, "LONGEST_FILE_BYTES", 10)
    path = tmp_path / "log"
    path.write_bytes(b"0123456789abc")
    reader = LogReader(path)
    reader.advance(reader.read()[1])
    with path.open("ab") as child:
        child.write(b"new")
    assert reader.read()[0] == "new"
