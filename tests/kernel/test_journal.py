"""The journal's table, byte by byte."""

from __future__ import annotations

import fcntl
import os
import random
import struct
from pathlib import Path

import pytest

from proctor.errors import ProctorError
from proctor.kernel import abi
from proctor.kernel.journal import (
    FREE,
    GIVEN,
    HEADER,
    PERFORMING,
    RECEIVED,
    RECEIVING,
    SLOT_SIZE,
    Journal,
    Pending,
)
from proctor.kernel.notification import Notification

X86_64 = 0xC000003E
DOCUMENT = Path(__file__).parents[2] / "docs/journal.md"


def made(slots: int = 4) -> Journal:
    memory = bytearray(HEADER.size + slots * SLOT_SIZE)
    HEADER.pack_into(memory, 0, b"PROCTORJ", 1, SLOT_SIZE, slots, 0)
    return Journal(memory)


def fill(journal: Journal, id: int, when: float) -> int:
    slot, place = journal.place()
    assert place is not None
    place[:] = abi.SECCOMP_NOTIF.pack(id, 10 + id, 0, 110, X86_64, 0, 1, 2, 3, 4, 5, 6)
    journal.received(slot, when)
    return slot


def note(id: int, slot: int) -> Notification:
    return Notification(id, 10 + id, 110, X86_64, (1, 2, 3, 4, 5, 6), slot=slot)


def test_what_was_received_and_not_answered_is_pending() -> None:
    journal = made()
    slots = [fill(journal, id, when) for id, when in ((1, 5.0), (2, 4.0), (3, 6.0))]
    journal.performs(note(3, slots[2]))
    journal.clear(note(1, slots[0]))
    assert list(journal.pending()) == [
        Pending(slots[1], note(2, slots[1]), 4.0, False),
        Pending(slots[2], note(3, slots[2]), 6.0, True),
    ]


def test_a_slot_that_another_call_has_by_now_is_not_ones_own() -> None:
    """A handler that takes longer than its deadline comes back when somebody else's call is in there."""
    journal = made(1)
    late = note(1, fill(journal, 1, 5.0))
    journal.clear(late)
    other = note(2, fill(journal, 2, 6.0))
    assert other.slot == late.slot
    journal.performs(late)
    assert not journal.begun(late)
    assert list(journal.pending()) == [Pending(other.slot, other, 6.0, False)]
    journal.performs(other)
    journal.left(late)
    assert not journal.begun(late)
    assert journal.begun(other)


def test_a_slot_that_was_being_filled_counts_if_the_kernel_filled_it() -> None:
    journal = made()
    slot, place = journal.place()
    assert place is not None
    assert journal.state(slot) == RECEIVING
    assert list(journal.pending()) == []
    assert journal.state(slot) == FREE, "nothing was received: it is free for others"
    slot, place = journal.place()
    assert place is not None
    place[:] = abi.SECCOMP_NOTIF.pack(7, 17, 0, 110, X86_64, 0, 1, 2, 3, 4, 5, 6)
    assert list(journal.pending()) == [Pending(slot, note(7, slot), None, False)]


def test_the_kernel_is_given_zeroes() -> None:
    """Anything else in there gives EINVAL."""
    journal = made(1)
    slot = fill(journal, 1, 1.0)
    journal.mark(slot, FREE)
    _, place = journal.place()
    assert place is not None and bytes(place) == bytes(80)


def test_calls_beyond_the_table_are_counted() -> None:
    journal = made(2)
    slots = [fill(journal, id, 1.0) for id in (1, 2)]
    assert journal.lost == 0
    assert journal.place() == (-1, None)
    assert journal.place() == (-1, None)
    assert journal.lost == 2
    journal.clear(note(3, -1))  # it is nowhere
    journal.clear(note(1, slots[0]))
    assert journal.place()[0] == slots[0]


def test_what_nobody_waits_for_any_more_is_not_taken_over() -> None:
    journal = made()
    slots = [fill(journal, id, 10.0 - id) for id in (1, 2, 3)]
    assert [each.notification.id for each in journal.adopt(lambda id: id != 2)] == [3, 1]
    assert [journal.state(slot) for slot in slots] == [RECEIVED, FREE, RECEIVED]


def test_a_memfd_is_shared() -> None:
    ours = Journal.create(8)
    theirs = Journal(os.dup(ours.fileno()))
    slot = fill(ours, 1, 2.5)
    assert [each.notification for each in theirs.pending()] == [note(1, slot)]
    assert os.fstat(ours.fileno()).st_size == 128 + 8 * 128
    for each in (ours, theirs, ours):
        each.close()


@pytest.mark.parametrize("slot", [0, 30, 31, 63, 500, 1023])
def test_what_was_never_used_is_not_looked_at(slot: int) -> None:
    """A slot behind holes is found, and looking for it gives the holes no memory."""
    ours = Journal.create(1024)
    ours._at = slot
    assert fill(ours, 1, 2.5) == slot
    before = os.fstat(ours.fileno()).st_blocks
    theirs = Journal(os.dup(ours.fileno()))
    assert [each.notification for each in theirs.pending()] == [note(1, slot)]
    assert theirs._used() < HEADER.size + slot * SLOT_SIZE + os.sysconf("SC_PAGE_SIZE") + SLOT_SIZE
    assert os.fstat(ours.fileno()).st_blocks == before
    for each in (ours, theirs):
        each.close()


def test_what_is_no_journal_is_refused() -> None:
    good = bytes(made().buffer)
    for wrong, why in (
        (b"", "does not begin"),
        (b"x" * 1000, "does not begin"),
        (good[:127], "does not begin"),
        (good[:8] + struct.pack("=I", 2) + good[12:], "version 2"),
        (good[:12] + struct.pack("=I", 64) + good[16:], "not what 640 bytes hold"),
        (good[:16] + struct.pack("=I", 0) + good[20:], "not what 640 bytes hold"),
        (good[:16] + struct.pack("=I", 2**32 - 1) + good[20:], "not what 640 bytes hold"),
        (good[:-1], "not what 639 bytes hold"),
    ):
        with pytest.raises(ProctorError, match=why):
            Journal(bytearray(wrong))
    reader, writer = os.pipe()
    with pytest.raises(ProctorError, match="is no journal"):
        Journal(reader)
    os.close(reader)
    os.close(writer)


def test_any_bytes_in_the_slots_are_survived() -> None:
    draw = random.Random(1)
    for _ in range(200):
        journal = made(8)
        journal.buffer[HEADER.size :] = draw.randbytes(8 * SLOT_SIZE)
        for slot in range(8):
            if draw.random() < 0.7:
                journal.mark(
                    slot, draw.choice((FREE, RECEIVING, RECEIVED, PERFORMING, GIVEN, 5, 77))
                )
        before = {slot: journal.state(slot) for slot in range(8)}
        found = {each.slot for each in journal.pending()}
        for slot, state in before.items():
            assert (slot in found) == (journal.state(slot) != FREE)
            assert slot not in found or state in (RECEIVING, RECEIVED, PERFORMING, GIVEN)


def test_the_document_has_the_layout() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "| 20 | 4 | notifications that were received while every slot was taken" in text
    assert HEADER.size == SLOT_SIZE == 128
    assert abi.SECCOMP_NOTIF.size == 80
    for state, word in ((FREE, "free"), (RECEIVING, "being received"), (RECEIVED, "received")):
        assert f"| {state} | {word}" in text
    assert f"| {PERFORMING} | somebody had begun to perform it" in text
    assert f"| {GIVEN} | its caller was given a descriptor" in text
    assert "| 4 | 4 | in state 4: a descriptor" in text


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL, fcntl.F_SEAL_SHRINK])
def test_nobody_else_can_cut_it_off(seals: int) -> None:
    """What is mapped beyond the end is SIGBUS: one that could be cut off is refused."""
    journal = Journal.create(4)
    for size in (0, HEADER.size, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(journal.fileno(), size)
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.pwrite(loose, bytes(journal.buffer), 0)
    fcntl.fcntl(loose, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(ProctorError, match="its size is not sealed"):
        Journal(loose)
    os.close(loose)
    journal.close()


def test_a_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(made().buffer))
    with open(tmp_path / "file", "rb+") as file, pytest.raises(ProctorError, match="is no journal"):
        Journal(file.fileno())


def test_of_a_journal_in_which_nothing_was_received_no_page_is_mapped() -> None:
    """Of thousands of listeners most are idle: each would take one."""

    def mapped() -> int:
        kilobytes = 0
        of_ours = False
        with open("/proc/self/smaps") as maps:
            for line in maps:
                if line.split(None, 1)[0][-1] != ":":
                    of_ours = "/memfd:proctor-journal" in line
                elif of_ours and line.startswith("Rss:"):
                    kilobytes += int(line.split()[1])
        return kilobytes

    before = mapped()
    journal = Journal.create(64)
    again = Journal(os.dup(journal.fileno()))
    assert list(again.pending()) == []
    assert mapped() == before
    journal.performs(Notification(7, 1, 39, 0xC000003E, slot=3))
    assert mapped() > before, "it would be seen"
    again.close()
    journal.close()
