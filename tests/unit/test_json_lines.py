"""JSON lines: bounded memory, a reason for every refused line, no line waits for the next one."""

import io
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from kasplo_notify.json_lines import MAX_LINE_BYTES, Line, read_lines


def lines_of(content: bytes) -> list[Line]:
    return [line for line in read_lines(io.BytesIO(content)) if line is not None]


def test_lines_keep_their_order_and_number_and_blank_ones_are_skipped() -> None:
    lines = lines_of(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}\n{"a": 3}')
    assert [(line.number, line.fields) for line in lines] == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b"{", "not JSON at character 2"),
        (b'{"a": NaN}', "not JSON at character 7"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"\x00", "not JSON"),
        (b'{"a": 1, "b": 2, "a" : 3}', "has the name 'a' twice"),
        (b'{"a": 1, "\\u0061": 2}', "has the name 'a' twice"),
        (b'{"a": [{"x": [1], "x": [2]}]}', "has the name 'x' twice"),
    ],
)
def test_a_line_that_is_no_event_is_refused_and_the_others_are_read(content: bytes, reason: str) -> None:
    first, bad, last = lines_of(b'{"a": 1}\n' + content + b'\n{"a": 2}\n')
    assert (first.fields, last.fields) == ({"a": 1}, {"a": 2})
    assert bad.number == 2
    assert reason in bad.refused
    assert bad.fields == {}


def test_a_name_may_stand_in_two_objects_and_in_a_text() -> None:
    (line,) = lines_of(b'{"a": {"b": 1}, "b": {"b": "\\"a\\": 1, \\"a\\": 2"}}')
    assert line.refused == ""


@pytest.mark.parametrize("content", [b"[\n  {", b"{\n  ", b'\n [{"a": 1},\n', b'[{"a": 1}]'])
def test_a_document_over_many_lines_is_recognised_by_its_first(content: bytes) -> None:
    first, *others = lines_of(content + b'"a": 1\n}\n]')
    assert "one event a line; for example jq -c '.[]'" in first.refused
    assert not any("one event a line" in line.refused for line in others)


def test_a_bad_line_among_good_ones_is_no_document() -> None:
    assert not any("one event a line" in line.refused for line in lines_of(b'{"a": 1}\n{\n[1]\n'))
    assert "one event a line" not in lines_of(b'{"a": 1')[0].refused


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_the_largest_size_is_read_and_one_byte_more_is_refused(end: bytes) -> None:
    def line(size: int) -> bytes:
        return b'{"a":"' + b"x" * (size - 8) + b'"}'

    (largest,) = lines_of(line(MAX_LINE_BYTES) + end)
    assert largest.refused == ""
    (larger,) = lines_of(line(MAX_LINE_BYTES + 1) + end)
    assert "524,289 bytes" in larger.refused


def test_a_line_of_any_length_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(300_000_000)
        file.seek(0, io.SEEK_END)
        file.write(b'\n{"a": 1}\n')
    tracemalloc.start()
    with path.open("rb") as file:
        refused, last = [line for line in read_lines(file) if line is not None]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "300,000,000 bytes" in refused.refused
    assert last.fields == {"a": 1}
    assert peak < 3_000_000


def end(writer: int) -> None:
    os.write(writer, b": 2}")
    os.close(writer)


def test_a_line_in_a_pipe_is_read_before_the_next_one_comes() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        os.write(writer, b'{"a": 1}\n{"a"')
        lines = read_lines(stream, quiet_s=0.01)
        first = next(lines)
        assert first is not None
        assert first.fields == {"a": 1}
        assert next(lines) is None
        threading.Timer(0.05, end, args=(writer,)).start()
        rest = [line for line in lines if line is not None]
    assert [line.fields for line in rest] == [{"a": 2}]
