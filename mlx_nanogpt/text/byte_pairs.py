"""Byte pairs as tokens: bytes and their merges, GPT-2's or learned from a text. The library `tokenizers`, an optional extra, does
the work."""

import codecs
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..config import MOST_TOKENS
from ..errors import UserError, import_extra
from .characters import MARK, id_type, quote_some

END_OF_TEXT = "<|endoftext|>"  # GPT-2's, between two documents
GPT2_SIZE = 50_257  # tokens of GPT-2
FEWEST = 257  # the bytes, and the end of a text
PART = 2**18  # characters that the library encodes at once, with 170 bytes of memory for each
LONGEST_RUN = 1000  # characters without a gap that pairs are learned from at once: the time grows with the square of it
LONG_RUN = re.compile(rf"\S{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}")
BETWEEN_TOKENS = re.compile(
    rf"(?<=\S)[ \n]|(?<=.){MARK}", re.DOTALL
)  # GPT-2's tokens have whitespace at their beginning only

# Reads a JSON string a line, writes the description of the tokenizer.
LEARN = """
import sys
sys.path[:] = filter(None, sys.path)  # first, so that no file of the user's is imported
import json, signal, tokenizers
signal.signal(signal.SIGINT, signal.SIG_DFL)
byte_level = tokenizers.pre_tokenizers.ByteLevel
library = tokenizers.Tokenizer(tokenizers.models.BPE())
library.pre_tokenizer = byte_level(add_prefix_space=False)
library.decoder = tokenizers.decoders.ByteLevel()
trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=int(sys.argv[1]),
    special_tokens=[sys.argv[2]],  # id 0, for other programs; a text rarely has it
    initial_alphabet=byte_level.alphabet(),
    show_progress=False,
)
library.train_from_iterator(map(json.loads, sys.stdin), trainer)
sys.stdout.buffer.write(library.to_str().encode())
"""

NOT_GPT2 = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # with one, text would not come back whole
# One spelling of parts that make no difference here, so that equal tokenizers have equal descriptions.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SAME_PARTS = {"pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL}
SAME_MODEL = dict.fromkeys(NOT_GPT2) | {"unk_token": None, "fuse_unk": False, "byte_fallback": False}


class OtherTokens(ValueError):
    """A tokenizer.json describes tokens of another kind than GPT-2's; the message is the reason."""


@dataclass(frozen=True)
class BPETokenizer:
    """Byte pairs of GPT-2's kind. `json` is the library's description, a tokenizer.json; it is replaced by the one spelling of all
    equal tokenizers. Raises `OtherTokens` for another kind, `ValueError` for damage, `UserError` if `tokenizers` is not installed."""

    json: str = field(repr=False)

    @classmethod
    def learn(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn `vocab_size` tokens, or fewer if there are no more pairs, from `texts`, the pieces of one text, none of them empty.

        Raises `UserError` if `vocab_size` is smaller than the number of bytes, or if `tokenizers` is not installed.
        """
        check_vocab_size(vocab_size)
        import_extra("tokenizers", "gpt2")
        command = [sys.executable, "-c", LEARN, str(vocab_size), END_OF_TEXT]
        # the library answers no Ctrl-C, so a process of its own learns, which can be killed
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
            assert process.stdin is not None  # a pipe
            try:
                with suppress(BrokenPipeError):  # it ended, and its status is read below
                    for part in cut_between_tokens(texts):
                        runs = (run for text in part.split(MARK) for run in cut_long_runs(text))
                        process.stdin.writelines(f"{json.dumps(run)}\n" for run in runs)
                description, _ = process.communicate()
            except BaseException:
                process.kill()
                process.communicate()  # closes the pipes; a write to them would be another error
                raise
        if process.returncode:
            raise MemoryError(f"the process that learns byte pairs ended with status {process.returncode}")
        return cls(description)

    def __post_init__(self) -> None:
        described = json.loads(self.json)
        model = described["model"]
        if (kind := model.get("type", "BPE")) != "BPE":  # older files, such as GPT-2's on the hub, have no type
            raise OtherTokens(f"its tokens are {kind}, and GPT-2's are byte pairs")
        before, after = described["pre_tokenizer"] or {}, described["decoder"] or {}
        if not before.get("type") == after.get("type") == "ByteLevel" or not before.get("use_regex", True):
            raise OtherTokens("it cuts a text into words by other rules than GPT-2's, as those of Qwen and Llama do")
        if odd := [name for name in NOT_GPT2 if model.get(name)]:
            raise OtherTokens(f"its model has a {odd[0]}, unlike GPT-2's")
        if described.get("normalizer") or before.get("add_prefix_space"):  # text would not come back whole
            raise OtherTokens("it changes the text before it encodes it, and GPT-2's does not")
        added = described.get("added_tokens") or []
        tokens: dict[int, str] = {}
        for token, number in [*model["vocab"].items(), *((token["content"], token["id"]) for token in added)]:
            if tokens.setdefault(number, token) != token:
                raise ValueError(f"its tokens {tokens[number]!r} and {token!r} have the same id, {number}")
        # first, because the library takes memory for all ids up to the largest
        if max(tokens) >= MOST_TOKENS:
            raise ValueError(f"it has ids beyond {MOST_TOKENS:,}")
        for token in added:
            if token.get("lstrip") or token.get("rstrip") or any(map(str.isspace, token["content"])):
                raise OtherTokens(f"its token {token['content']!r} takes whitespace in, and GPT-2's takes none")
        object.__setattr__(self, "json", _describe(_load(self.json)))  # refuses a bad description here

    @property
    def kind(self) -> str:
        """A `TokenizerName`. Tokenizers that are learned here have the end of a text as their first token."""
        return "gpt2" if self.token_id(END_OF_TEXT) else "bpe"

    @property
    def vocab_size(self) -> int:
        return max(self._pieces) + 1

    @cached_property
    def marks(self) -> bool:
        """Whether its texts are documents, between marks."""
        return json.loads(self.json)["post_processor"] is not None

    def with_marks(self) -> "BPETokenizer":
        """The same tokens for texts of documents, whose mark is END_OF_TEXT. Raises `UserError` if there is no such token."""
        end = self.token_id(END_OF_TEXT)
        if end is None:
            problem = f"the tokenizer has no {END_OF_TEXT}, which stands between documents"
            raise UserError(problem, "give `documents` none")
        return BPETokenizer(json.dumps(json.loads(self.json) | {"post_processor": begin_with_mark(end)}))

    @cached_property
    def start_token(self) -> int:
        """The token of an empty prompt: the end of the text before; a new line for byte pairs that were learned without documents."""
        if self.end_token is not None:
            return self.end_token
        return self.token_id(spell("\n")) or 0

    @cached_property
    def end_token(self) -> int | None:
        """The token that ends a text: that of GPT-2, or the mark after a document."""
        return self.token_id(END_OF_TEXT) if self.marks or self.kind == "gpt2" else None

    def token_id(self, token: str) -> int | None:
        """The id of a token in the library's spelling, or None."""
        return self._library.token_to_id(token)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (N,): uint16, or uint32 where the vocabulary needs it. A mark is END_OF_TEXT; nothing is added.

        Raises `UserError` for characters of unknown bytes, and names them; GPT-2's tokenizer knows all bytes.
        """
        if strangers := self.unknown(text):  # the library would leave them out silently
            raise UserError(f"the model has never seen {quote_some(strangers)}", "remove them from the text")
        dtype, mark = id_type(self.vocab_size), END_OF_TEXT if self.marks else MARK
        parts = (part.replace(MARK, mark) for part in cut_between_tokens(pieces_of(text)))
        return np.concatenate(
            [np.array(self._library.encode(part, add_special_tokens=False).ids, dtype) for part in parts]
        )

    def unknown(self, text: str) -> list[str]:
        """The different characters of `text` that have unknown bytes, or none, in code-point order."""
        unknown = self._unknown_bytes
        return sorted(c for c in set(text) if "\ud800" <= c <= "\udfff" or not unknown.isdisjoint(c.encode("utf-8")))

    def decode(self, ids) -> str:
        """The text of a sequence of ids; bytes that are not UTF-8 become U+FFFD."""
        return "".join(self.stream(ids))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` as they come, in pieces of whole characters."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            if text := decoder.decode(self._pieces.get(token, b"")):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def to_json(self) -> str:
        """JSON for `tokenizer_from_json` and for the library."""
        return self.json

    @cached_property
    def _library(self):
        return _load(self.json)

    @cached_property
    def _unknown_bytes(self) -> set[int]:
        return set(range(256)).difference(*(piece for piece in self._pieces.values() if len(piece) == 1))

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        """The bytes that an id stands for."""
        pieces = {token: _bytes_of(piece) for piece, token in self._library.get_vocab().items()}
        return pieces | ({self.start_token: MARK.encode()} if self.marks else {})


def _load(text: str):
    """The library's tokenizer from the tokenizer.json `text`, without truncation and padding."""
    tokenizers = import_extra("tokenizers", "gpt2")
    try:
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # it has no type of its own
        raise ValueError(f"the library tokenizers refuses it: {error}") from error
    library.no_truncation()  # that of a fine-tuned model would cut a corpus silently
    library.no_padding()
    return library


def _describe(library) -> str:
    """The description of a tokenizer of the library, the same for all equal ones."""
    described = json.loads(library.to_str())
    end = library.token_to_id(END_OF_TEXT)
    marks = end is not None and described["post_processor"] == begin_with_mark(end)
    described |= SAME_PARTS | ({"post_processor": begin_with_mark(end)} if marks else {})
    described["model"] |= SAME_MODEL
    for token in described["added_tokens"]:
        token["normalized"] = False  # nothing is normalized
    return json.dumps(described)


def begin_with_mark(end: int) -> dict:
    """The part of a tokenizer.json by which other programs begin a text with END_OF_TEXT, whose id is `end`."""
    mark = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [mark, text],
        "pair": [mark, text, other],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [end], "tokens": [END_OF_TEXT]}},
    }


def check_vocab_size(vocab_size: int) -> None:
    """Raise `UserError` unless that many byte pairs can be learned: at least the bytes themselves."""
    if not FEWEST <= vocab_size <= MOST_TOKENS:
        remedy = f"give a whole number from {FEWEST} to {MOST_TOKENS}"
        raise UserError(f"vocab_size {vocab_size} is out of range", remedy)


def pieces_of(text: str) -> Iterator[str]:
    """`text` in pieces of `PART` characters."""
    return (text[start : start + PART] for start in range(0, len(text), PART))


def cut_between_tokens(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of `pieces`, none of them empty, in parts that no byte pair connects. Cuts each piece at its first safe gap,
    and joins a piece without one to the next."""
    kept: list[str] = []
    before = ""
    for piece in pieces:
        gap = BETWEEN_TOKENS.search(before + piece)
        before_it = gap.start() - len(before) if gap else 0
        if gap:
            yield "".join((*kept, piece[:before_it]))
            kept = []
        kept.append(piece[before_it:])
        before = piece[-1]
    yield "".join(kept)


def cut_long_runs(text: str) -> Iterator[str]:
    """Yield `text` in parts, with a cut after each `LONGEST_RUN` characters that have no gap, as in DNA or base64. The pairs across
    a cut are not counted; other texts stay whole."""
    start = 0
    for run in LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's visible character for each byte: its character in Latin-1, or one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()
CHARACTERS = {byte: character for character, byte in BYTES.items()}


def spell(text: str) -> str:
    """`text` in the spelling of tokens."""
    return "".join(CHARACTERS[byte] for byte in text.encode())


def unspell(token: str) -> str | None:
    """The text of a token in its spelling; None if its bytes are not text."""
    try:
        return _bytes_of(token).decode()
    except UnicodeDecodeError:
        return None


def _bytes_of(piece: str) -> bytes:
    if all(character in BYTES for character in piece):
        return bytes(BYTES[character] for character in piece)
    return piece.encode()  # an added token has plain spelling
