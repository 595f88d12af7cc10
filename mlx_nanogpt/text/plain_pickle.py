"""Read a pickle without running anything of it, as for nanoGPT's `meta.pkl`."""

import pickle
from typing import NoReturn

PLAIN = """PROTO FRAME STOP MARK EMPTY_DICT DICT SETITEM SETITEMS MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    GLOBAL STACK_GLOBAL"""  # the last two for the reason that find_class gives


class PlainUnpickler(pickle._Unpickler):
    """Reads dicts, strings and whole numbers, and refuses all else, above all calls.

    It extends Python's own unpickler, not the one in C, in which a few bytes can take any amount of memory. Tuples are
    refused because hashing deep ones ends the process.
    """

    dispatch = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in (getattr(pickle, name) for name in PLAIN.split())
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and nothing of a pickle is run here")
