"""Rules to classic BPF, and back.

:mod:`.rules`, with :mod:`.conditions` and :mod:`.actions`, is what is written; :mod:`.compile` makes a :mod:`.program` of it.
:mod:`.check` and :mod:`.interpreter` are what the kernel says and does of one, :mod:`.text` is for people; :mod:`.opcodes` is
below them all.  :mod:`.profiles`: the same in the formats of runtimes.
"""
