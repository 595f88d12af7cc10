"""Pickles of plain data, of which nothing is run."""

import io
import pickle
from collections.abc import Callable
from typing import Any

PLAIN = """PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE EMPTY_SET ADDITEMS FROZENSET"""

TUPLES = {pickle.TUPLE: None, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


class NotPlain(Exception):
    """A pickle names a function or a class; the message says which."""


def _number(kind: str, data: bytes) -> int | bytes:
    """The value of a number of NumPy's, if it is an integer."""
    return int.from_bytes(data, "little", signed=kind[0] == "i") if kind[0] in "iu" else data


# What Python and NumPy name in pickles of plain data -> what builds that data here.
HARMLESS: dict[str, Callable] = {
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _number),
    "numpy.dtype": lambda kind, *_: kind,
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # bytes in old protocols
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
}


def _load_tuple(length: int | None) -> Callable:
    def load(unpickler) -> None:
        items = unpickler.pop_mark() if length is None else [unpickler.stack.pop() for _ in range(length)][::-1]
        # a tuple of tuples becomes a list, which cannot be a key: to hash a deep tuple would end the process
        unpickler.append(items if any(isinstance(item, tuple) for item in items) else tuple(items))

    return load


def _load_build(unpickler) -> None:
    unpickler.stack.pop()  # the state of a type of NumPy: its order of bytes, little-endian on all machines of today


class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, strings and collections of them. Raises `NotPlain` for names of anything else, and any error for damage.

    It extends Python's own unpickler, not the one in C, in which a few bytes can take any amount of memory. `REDUCE` can call
    only what is in `HARMLESS`, because nothing else that it meets is a function.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in HARMLESS:
            raise NotPlain(f"it names {full_name[:99]}, and nothing of a pickle is run here")
        return HARMLESS[full_name]

    dispatch = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in (getattr(pickle, name) for name in PLAIN.split())},
        **{code[0]: _load_tuple(length) for code, length in TUPLES.items()},
        pickle.BUILD[0]: _load_build,
    }
