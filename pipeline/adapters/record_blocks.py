"""Cuts the bytes of objects into blocks of records that are parsed together: some small objects, or a part of one.

However large an object is, memory holds one block of it. Each record keeps its object, its line number, its number
among the records and its byte offset in the decompressed object; blank lines, comments and the header are no
records but are counted, so that the lines of every object tie (P3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.adapters.block_kernels import PADDING_BYTES
from pipeline.adapters.block_parser import Block, Bools, Bytes, Ints
from pipeline.adapters.decompress import CHUNK_BYTES
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.json_sequence import JsonSequence
from pipeline.core.reason import QuarantineReason, Rejection
from pipeline.core.record import LongLine, LongLineBuilder, comment_fault, too_long

BLOCK_BYTES = 4 << 20  # what two processes on one cache still read fast
_LINE_BREAK, _CARRIAGE_RETURN, _LAST_SPACE = 0x0A, 0x0D, 0x20
_IS_CONTENT = np.array([byte not in b" \t\r\n,[]" for byte in range(256)])


@dataclass(frozen=True, slots=True)
class UnreadRecord:
    """A record that is quarantined unread: it is longer than the limit, or it should be there and is not."""

    object_index: int
    line_number: int
    byte_offset: int
    line: LongLine
    rejection: Rejection


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Records of one or more objects, in order; an array holds one value for each record."""

    records: Block
    object_index: Ints
    line_numbers: Ints
    record_numbers: Ints
    byte_offsets: Ints
    unread: tuple[UnreadRecord, ...]


@dataclass(slots=True)
class ObjectCount:
    """How many lines of an object there are, counted in its bytes as they came, and how many were cut out of them.

    In JSON values the bytes are counted that are no white space, comma or bracket of the array. ``record_count`` is
    what has to become raw events or quarantined lines.
    """

    counted: int = 0
    cut: int = 0
    record_count: int = 0
    is_blank: bool = True


@dataclass(slots=True)
class _Segment:
    """The part of the buffer that belongs to one object, and what comes next in it."""

    object_index: int
    start: int
    byte_offset: int
    header_line: int
    header: bytes | None
    count: ObjectCount
    next_line: int = 1
    next_record: int = 1


class RecordFault(Exception):  # noqa: N818 - like ObjectFault, a fault of an object and not of the program
    """Why no record of an object can be trusted, found after some of them were cut."""

    def __init__(self, object_index: int, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.object_index = object_index
        self.rejection = rejection


class RecordCutter:
    """Gathers objects of one contract (in CSV: of one header) into blocks and hands each full one to ``take``."""

    def __init__(self, contract: SourceContract, take: Callable[[RecordBlock], None]) -> None:
        self._contract = contract
        self._is_sequence = contract.format is FileFormat.JSON
        self._take = take
        self._line_bytes_max = contract.limits.line_bytes_max
        self._comment = (contract.comment or "").encode()
        self._capacity = BLOCK_BYTES + self._line_bytes_max + 2 * CHUNK_BYTES
        self._buffer: Bytes = np.zeros((self._capacity + PADDING_BYTES) // 8 + 1, np.uint64).view(np.uint8)
        self._size = 0
        self._complete = 0  # up to here the buffer holds whole records
        self._segments: list[_Segment] = []
        self._spans: list[tuple[Ints, Ints]] = []
        self._unread: list[UnreadRecord] = []

    def add_object(
        self,
        object_index: int,
        chunks: Iterable[bytes],
        *,
        first_offset: int = 0,
        header_line: int = 0,
        header: bytes | None = None,
    ) -> ObjectCount:
        """Cut an object, whose bytes begin at ``first_offset``; the count is final after ``flush``.

        A fault of the object is raised as it comes (``RecordFault``, also by ``flush``, where a record tells it); what
        was taken of the object before has to be thrown away.
        """
        segment = _Segment(object_index, self._size, first_offset, header_line, header, ObjectCount())
        self._segments.append(segment)
        add = self._add_values if self._is_sequence else self._add_lines
        add(segment, _watched(chunks, segment.count))
        if self._size >= BLOCK_BYTES:
            self.flush()
        return segment.count

    def flush(self) -> None:
        """Hand on what is complete; the beginning of a record that is not stays."""
        if self._segments:
            block = self._block_of_values() if self._is_sequence else self._block_of_lines()
            last = self._segments[-1]
            last.byte_offset += self._complete - last.start
            last.start = 0
            self._segments = [last]
            if len(block.records) or block.unread:
                self._take(block)
        rest = self._size - self._complete
        self._buffer[:rest] = self._buffer[self._complete : self._size].copy()
        self._size, self._complete = rest, 0
        self._spans, self._unread = [], []

    # ---- lines ----

    def _add_lines(self, segment: _Segment, chunks: Iterable[bytes]) -> None:
        long_line: LongLineBuilder | None = None
        for chunk in chunks:
            segment.count.counted += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == _LINE_BREAK))
            rest = chunk
            if long_line is not None:
                part, line_break, rest = chunk.partition(b"\n")
                long_line.add(part)
                if not line_break:
                    continue
                self._end_long_line(segment, long_line)
                long_line = None
            self._append(rest)
            last_break = rest.rfind(b"\n")
            if last_break >= 0:
                self._complete = self._size - len(rest) + last_break + 1
            if self._size - self._complete > self._line_bytes_max + 1:
                long_line = LongLineBuilder(self._line_bytes_max)
                long_line.add(self._take_tail())
            elif self._size >= BLOCK_BYTES:
                self.flush()
        if long_line is not None:
            segment.count.counted += 1
            self._end_long_line(segment, long_line)
        elif self._size > self._complete:
            segment.count.counted += 1
            self._append(b"\n")
            self._complete = self._size

    def _append(self, content: bytes) -> None:
        self._buffer[self._size : self._size + len(content)] = np.frombuffer(content, np.uint8)
        self._size += len(content)

    def _add_long(self, object_index: int, line_number: int, byte_offset: int, line: LongLine) -> None:
        rejection = too_long(line, self._line_bytes_max)
        self._unread.append(UnreadRecord(object_index, line_number, byte_offset, line, rejection))

    def _take_tail(self) -> bytes:
        """Take the beginning of a record that is too long out of the buffer, and hand on what is before it."""
        tail = self._buffer[self._complete : self._size].tobytes()
        self._size = self._complete
        self.flush()
        return tail

    def _end_long_line(self, segment: _Segment, builder: LongLineBuilder) -> None:
        line = builder.finish()
        if self._comment and line.head.startswith(self._comment):
            self._check_comment(segment, segment.next_line, line)
        elif not builder.is_blank:
            self._add_long(segment.object_index, segment.next_line, segment.byte_offset, line)
            segment.count.record_count += 1
            segment.next_record += 1
        segment.count.cut += 1
        segment.next_line += 1
        segment.byte_offset += line.byte_count + 1

    def _block_of_lines(self) -> RecordBlock:
        lines = Block.of_lines(self._buffer, self._complete)
        is_record, comments = self._are_records(lines)
        edges = [*np.searchsorted(lines.starts, [segment.start for segment in self._segments]).tolist(), len(lines)]
        object_index, line_numbers, record_numbers, byte_offsets = (np.empty(len(lines), np.int64) for _ in range(4))
        for segment, first, end in zip(self._segments, edges[:-1], edges[1:], strict=True):
            object_index[first:end] = segment.object_index
            line_numbers[first:end] = np.arange(segment.next_line, segment.next_line + end - first)
            byte_offsets[first:end] = lines.starts[first:end] - segment.start + segment.byte_offset
            if segment.next_line <= segment.header_line:
                is_record[first:end] &= line_numbers[first:end] > segment.header_line
            for row in comments[(comments >= first) & (comments < end)].tolist():
                if line_numbers[row] > segment.header_line:
                    self._check_comment(segment, int(line_numbers[row]), lines.record(row))
            record_numbers[first:end] = np.cumsum(is_record[first:end]) + (segment.next_record - 1)
            record_count = int(np.count_nonzero(is_record[first:end]))
            segment.count.cut += end - first
            segment.count.record_count += record_count
            segment.next_line += end - first
            segment.next_record += record_count
        for row in np.flatnonzero(is_record & (lines.ends - lines.starts > self._line_bytes_max)).tolist():
            is_record[row] = False
            end = lines.ends[row] + (self._buffer[lines.ends[row]] == _CARRIAGE_RETURN)  # as where it comes in parts
            line = long_line(self._buffer[lines.starts[row] : end].tobytes(), self._line_bytes_max)
            self._add_long(int(object_index[row]), int(line_numbers[row]), int(byte_offsets[row]), line)
        return RecordBlock(
            lines.only(is_record),
            object_index[is_record],
            line_numbers[is_record],
            record_numbers[is_record],
            byte_offsets[is_record],
            tuple(self._unread),
        )

    def _are_records(self, lines: Block) -> tuple[Bools, Ints]:
        """Tell which lines are records, neither blank nor a comment, and which are comments."""
        first = lines.content.take(lines.starts, mode="clip")
        is_record: Bools = lines.ends > lines.starts
        comments = []
        for row in np.flatnonzero(is_record & (first <= _LAST_SPACE)).tolist():
            is_record[row] = not lines.record(row).isspace()
        if self._comment:
            for row in np.flatnonzero(is_record & (first == self._comment[0])).tolist():
                if lines.record(row).startswith(self._comment):
                    is_record[row] = False
                    comments.append(row)
        return is_record, np.array(comments, np.int64)

    def _check_comment(self, segment: _Segment, line_number: int, line: bytes | LongLine) -> None:
        fault = comment_fault(self._contract, segment.header, line_number, line)
        if fault is not None:
            raise RecordFault(segment.object_index, fault)

    # ---- JSON values ----

    def _add_values(self, segment: _Segment, chunks: Iterable[bytes]) -> None:
        sequence = JsonSequence()
        long_value: LongLineBuilder | None = None
        for chunk in chunks:
            rest = chunk
            if long_value is not None:
                rest = self._add_to_long_value(segment, sequence, long_value, chunk)
                if not rest:
                    continue
                long_value = None
            self._append(rest)
            if self._size >= BLOCK_BYTES + self._line_bytes_max:
                self._cut_values(segment, sequence, is_last=False)
                if self._size - self._complete > self._line_bytes_max:
                    long_value = LongLineBuilder(self._line_bytes_max)
                    start = self._take_tail()
                    rest = self._add_to_long_value(segment, sequence, long_value, start)
                    if rest:
                        raise AssertionError("what is left after cutting is the beginning of one record")
                else:
                    self.flush()
        if long_value is not None:
            self._end_long_value(segment, long_value)
        self._cut_values(segment, sequence, is_last=True)
        if sequence.is_array_open:
            self._add_missing_end(segment)

    def _add_to_long_value(
        self, segment: _Segment, sequence: JsonSequence, long_value: LongLineBuilder, content: bytes
    ) -> bytes:
        """Take what belongs to a record that is too long, and return what follows it; nothing while it goes on."""
        taken = sequence.skip(np.frombuffer(content, np.uint8))
        long_value.add(content[:taken])
        content_bytes = int(np.count_nonzero(_IS_CONTENT.take(np.frombuffer(content, np.uint8)[:taken])))
        segment.count.counted += content_bytes
        segment.count.cut += content_bytes
        if taken < len(content):
            self._end_long_value(segment, long_value)
        return content[taken:]

    def _end_long_value(self, segment: _Segment, long_value: LongLineBuilder) -> None:
        line = long_value.finish()
        self._add_long(segment.object_index, segment.next_record, segment.byte_offset, line)
        segment.count.record_count += 1
        segment.next_record += 1
        segment.byte_offset += line.byte_count

    def _cut_values(self, segment: _Segment, sequence: JsonSequence, *, is_last: bool) -> None:
        region = self._buffer[self._complete : self._size]
        starts, ends, consumed = sequence.cut(region, is_last)
        is_content = _IS_CONTENT.take(region[:consumed])
        segment.count.counted += int(np.count_nonzero(is_content))
        if len(starts):
            edges = np.column_stack([starts, ends]).ravel()
            inside = np.add.reduceat(np.append(is_content, False).astype(np.int64), edges)
            segment.count.cut += int(inside[::2].sum())
        segment.count.record_count += len(starts)
        self._spans.append((starts + self._complete, ends + self._complete))
        self._complete += consumed

    def _add_missing_end(self, segment: _Segment) -> None:
        """Show that records may be missing behind the last one: the producer did not finish its array."""
        rejection = Rejection(QuarantineReason.MALFORMED_LINE, "the JSON array has no closing bracket")
        number = segment.next_record + sum(int(np.count_nonzero(starts >= segment.start)) for starts, _ in self._spans)
        offset = segment.byte_offset + self._complete - segment.start
        self._unread.append(UnreadRecord(segment.object_index, number, offset, long_line(b"", 0), rejection))
        segment.count.record_count += 1

    def _block_of_values(self) -> RecordBlock:
        empty = np.empty(0, np.int64)
        starts = np.concatenate([empty, *(span[0] for span in self._spans)])
        ends = np.concatenate([empty, *(span[1] for span in self._spans)])
        edges = [*np.searchsorted(starts, [segment.start for segment in self._segments]).tolist(), len(starts)]
        object_index, record_numbers, byte_offsets = (np.empty(len(starts), np.int64) for _ in range(3))
        for segment, first, end in zip(self._segments, edges[:-1], edges[1:], strict=True):
            object_index[first:end] = segment.object_index
            record_numbers[first:end] = np.arange(segment.next_record, segment.next_record + end - first)
            byte_offsets[first:end] = starts[first:end] - segment.start + segment.byte_offset
            segment.next_record += end - first
        is_short = ends - starts <= self._line_bytes_max
        for row in np.flatnonzero(~is_short).tolist():
            line = long_line(self._buffer[starts[row] : ends[row]].tobytes(), self._line_bytes_max)
            self._add_long(int(object_index[row]), int(record_numbers[row]), int(byte_offsets[row]), line)
        records = Block(self._buffer, starts[is_short], ends[is_short])
        numbers = record_numbers[is_short]
        return RecordBlock(
            records, object_index[is_short], numbers, numbers, byte_offsets[is_short], tuple(self._unread)
        )


def long_line(content: bytes, head_bytes_max: int) -> LongLine:
    """Return the head, the length and the SHA-256 of a record that is in memory."""
    builder = LongLineBuilder(head_bytes_max)
    builder.add(content)
    return builder.finish()


def _watched(chunks: Iterable[bytes], count: ObjectCount) -> Iterator[bytes]:
    """Yield the chunks and note whether they hold anything but white space."""
    for chunk in chunks:
        count.is_blank = count.is_blank and chunk.isspace()
        yield chunk
