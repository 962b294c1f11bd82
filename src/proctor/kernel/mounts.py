"""Which mounts were made for which container, as it is known when their monitor is gone.

A table in memory, which whoever keeps journals keeps, too.  A mount is in it before it is anywhere, so that the next monitor
knows of all that its container can name.  What is known by is the number that the kernel gives to no other mount
(STATX_MNT_ID_UNIQUE, Linux 6.8), and who made it: its container, not by name, which others may have later.

The table has a key for each of its places, and then for each as many words, of eight bytes, as a container may have mounts: the
number, and in the lowest bit whether its source was opened for writing; 0 for none.  A word is written at once.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from typing import Final

from proctor.errors import ProctorError
from proctor.kernel.sealing import is_sealed, sealed

#: Containers that are known, and mounts of each.
PLACES: Final = 4096
MOST: Final = 256
#: Bytes of a key.
KEY: Final = 16
_KEY_WORDS: Final = KEY // 8
_SIZE: Final = PLACES * (KEY + 8 * MOST)
_NONE: Final = bytes(KEY)
_NUMBERS: Final = 1 << 63


class Mounts:
    """One table.  Thread-safe.

    :param memory: a memfd, which it owns from now on; -1: it ends with this process.
    :raises ProctorError: it is no such table.
    :raises OSError: it is no memfd, or there is no memory."""

    def __init__(self, memory: int = -1) -> None:
        self.fd = memory
        try:
            if memory >= 0 and (not is_sealed(memory) or os.fstat(memory).st_size != _SIZE):
                raise ProctorError(f"descriptor {memory} is no table of mounts")
            self._map = mmap.mmap(memory, _SIZE)
        except BaseException:
            self.close()
            raise
        self._words = memoryview(self._map).cast("Q")
        self._lock = threading.Lock()
        keys = self._map[: PLACES * KEY]
        found = [keys[at : at + KEY] for at in range(0, len(keys), KEY)]
        self._places = {key: place for place, key in enumerate(found) if key != _NONE}
        self._free = [place for place in reversed(range(PLACES)) if found[place] == _NONE]
        #: Of containers that have none which lasts.
        self._keys: dict[object, bytes] = {}

    @property
    def lasts(self) -> bool:
        """Whether somebody else may know them when this process has ended, and may have told it of earlier ones."""
        return self.fd >= 0

    @classmethod
    def create(cls) -> Mounts:
        """A new one, for whoever comes after this monitor; of its 8 MiB only those take memory that are used."""
        return cls(sealed("proctor-mounts", _SIZE))

    def add(self, container: object, number: int, writable: bool) -> None:
        """Know one; the oldest of a container goes.  Where more containers have mounts than there are places it is known of none
        that comes then: nobody pushes out another's.

        :param number: more than 0, and more than those of earlier mounts."""
        assert 0 < number < _NUMBERS
        with self._lock:
            key = self._key(container)
            place = self._places.get(key)
            if place is None:
                if not self._free:
                    return
                place = self._places[key] = self._free.pop()
                # whoever let it go may have died over it
                self._words[_words_of(place)] = _NO_MOUNTS
                self._map[place * KEY : (place + 1) * KEY] = key
            own = self._words[_words_of(place)]
            words = own.tolist()
            own[words.index(min(words))] = number << 1 | writable

    def drop(self, container: object, number: int) -> None:
        """It is nowhere after all."""
        with self._lock:
            own = self._own(container)
            for at, word in enumerate(own):
                if word >> 1 == number:
                    own[at] = 0

    def writable(self, container: object, number: int) -> bool | None:
        """Whether the source of a mount was opened for writing; None if the container was given no such."""
        if not number:
            return None
        with self._lock:
            return next(
                (bool(word & 1) for word in self._own(container) if word >> 1 == number), None
            )

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            self._let_go(self._key(container))
            self._keys.pop(container, None)

    def keep_only(self, keys: Iterable[bytes]) -> None:
        """Forget all containers but those with these keys."""
        with self._lock:
            for key in self._places.keys() - set(keys):
                self._let_go(key)

    def close(self) -> None:
        """Give the memfd up; idempotent.  What is in there stays there, for whoever else has it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _key(self, container: object) -> bytes:
        lasting: bytes = getattr(container, "lasting", b"")
        known = lasting or self._keys.get(container)
        return known or self._keys.setdefault(container, os.urandom(KEY))

    def _own(self, container: object) -> memoryview:
        place = self._places.get(self._key(container))
        return _NO_MOUNTS[:0] if place is None else self._words[_words_of(place)]

    def _let_go(self, key: bytes) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._map[place * KEY : (place + 1) * KEY] = _NONE
            self._words[_words_of(place)] = _NO_MOUNTS
            self._free.append(place)


_NO_MOUNTS: Final = memoryview(bytes(8 * MOST)).cast("Q")


def _words_of(place: int) -> slice:
    """Where in the table a place has its mounts."""
    first = PLACES * _KEY_WORDS + place * MOST
    return slice(first, first + MOST)
