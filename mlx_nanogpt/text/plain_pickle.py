"""Pickles of plain data, of which nothing is run."""

import pickle
from collections.abc import Callable
from typing import Any

PLAIN = """PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE EMPTY_SET ADDITEMS FROZENSET"""
TUPLES = {pickle.TUPLE: None, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}  # and their lengths
# What plain data of Python and NumPy names in a pickle -> what builds it here.
HARMLESS: dict[str, Callable] = {
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # bytes in old protocols
    "numpy.dtype": lambda kind, *_: kind,
    # integers; other numbers of NumPy stay bytes
    **dict.fromkeys(
        ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        lambda kind, data: int.from_bytes(data, "little", signed=kind[0] == "i") if kind[0] in "iu" else data,
    ),
}


def _load_tuple(length: int | None) -> Callable:
    def load(unpickler: Any) -> None:
        items = unpickler.pop_mark() if length is None else [unpickler.stack.pop() for _ in range(length)][::-1]
        # a tuple of tuples becomes a list, which cannot be a key: to hash a deep tuple would end the process
        unpickler.append(items if any(isinstance(item, tuple) for item in items) else tuple(items))

    return load


class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, strings and collections of them. Raises `ValueError` for names of anything else, and any error for damage.

    It extends Python's own unpickler, not the one in C, in which a few bytes can take any amount of memory. A pickle calls nothing
    but what is `HARMLESS`, because nothing else in it is a function.
    """

    dispatch = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in (getattr(pickle, name) for name in PLAIN.split())},
        **{code[0]: _load_tuple(length) for code, length in TUPLES.items()},
        pickle.BUILD[0]: pickle._Unpickler.dispatch[pickle.POP[0]],  # leaves out the order of bytes of a type of NumPy
    }

    def find_class(self, module: str, name: str) -> Any:
        if (full_name := f"{module}.{name}") not in HARMLESS:
            raise ValueError(f"it names {full_name[:99]}, and nothing of a pickle is run here")
        return HARMLESS[full_name]
