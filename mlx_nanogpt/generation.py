"""The GPT writes: a sampler picks a token from the logits, `generate` yields one token after another, `make_writer` writes several
texts together.

While the text fits into `block_size`, each layer's keys and values are cached. Beyond that, every token is drawn from the
last `block_size` tokens, all read again, as in the lecture: positions are absolute and shift, so a cache would be wrong.
"""

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, tee

import mlx.core as mx
import numpy as np

from .errors import UserError
from .machine import machine
from .model import GPT, Cache, own_class

PROBED_TOKENS, PROBE_ROUNDING = 16, 1e-3
COLDEST = 1e-6  # below this temperature logits would overflow float32; the draw is the argmax anyway
TEXTS_AT_ONCE = 8  # on a CPU they take two to four times the time of one; with more, the first would be slow to read
CACHE_BYTES = 2**29  # of texts that are drawn together; attention beyond the context may take twice as much again

Sampler = Callable[..., mx.array]  # of logits (B, vocab_size) and random keys
Keys = list[mx.array]  # one for each text, so that a text is the same alone and beside others


def make_sampler(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampler:
    """Return `sample(logits, *keys)`, which picks token ids (B,) from logits (B, vocab_size) with random keys, one for each row or one
    for all: draws from the softmax of `make_filter`'s. Raises `UserError` as that does."""
    keep = make_filter(temperature, top_k, top_p)

    def sample(logits: mx.array, *keys: mx.array) -> mx.array:
        if temperature < COLDEST:
            return mx.argmax(logits, axis=-1)
        # Gumbel's trick draws from the softmax in half the kernels of mx.random.categorical
        shape = len(logits) // len(keys), logits.shape[-1]
        noise = mx.concatenate([mx.random.gumbel(shape, key=key) for key in keys])  # (B, vocab_size)
        return mx.argmax(keep(logits) + noise, axis=-1)

    return sample


def make_filter(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Callable[[mx.array], mx.array]:
    """Return `keep(logits)`: logits (B, vocab_size) to those that a token is drawn from, minus infinity where it never is.

    `temperature` divides the logits; 0 always picks the likeliest token. `top_k` then keeps the k likeliest tokens, and
    `top_p` the fewest whose probabilities add up to p ("nucleus sampling", Holtzman et al. 2020).
    Raises `UserError` for a value out of range.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"temperature {temperature} is out of range", "give 0 (always the likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k {top_k} is out of range", "give 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p} is out of range", "give more than 0 and at most 1")

    def keep(logits: mx.array) -> mx.array:
        if temperature != 1:
            logits = logits / max(temperature, COLDEST)
        if top_k is not None and top_k < logits.shape[-1]:
            logits = _keep_top_k(logits, top_k)
        return logits if top_p is None else _keep_top_p(logits, top_p)

    return keep


def generate(
    model: GPT,
    prompt: Sequence[int] | np.ndarray,
    num_tokens: int,
    seed: int | None = None,
    sample: Sampler | None = None,
    end: int | None = None,
) -> Iterator[int]:
    """Yield `num_tokens` token ids that follow `prompt`, drawn with `sample` and random numbers from `seed`, by default a new one; fewer
    if the token `end` is drawn, which is not yielded.

    The model stays in evaluation mode. Its weights must not change before the last token.
    Raises `UserError` for an empty prompt (there is nothing to continue) and for a seed out of range.
    """
    seed = secrets.randbits(64) if seed is None else seed
    [text] = make_writer(model, sample)(prompt, num_tokens, [seed], end)
    yield from text


def make_writer(model: GPT, sample: Sampler | None = None) -> Callable[..., Iterator[Iterator[int]]]:
    """Return `write(prompt, num_tokens, seeds, end)`, which yields a text for each of `seeds`: the tokens of `generate`. Its preparation
    and compiled functions serve all of them. The weights must not change from now on.

    Texts are drawn in groups of up to TEXTS_AT_ONCE, a token of each at a time. Finish a group before you read the next one: they share a
    cache. A text equals the one that its seed writes alone, unless two tokens are almost equally likely: a product of several rows rounds
    differently.
    """
    model.eval()
    config = model.config
    bytes_of_a_text = 8 * config.n_layer * config.block_size * config.n_embd  # keys and values, float32
    most = max(1, min(TEXTS_AT_ONCE, CACHE_BYTES // bytes_of_a_text))
    sample, cached = sample or make_sampler(), can_cache(model)
    fast, computing = machine().for_inference(model)
    with computing():
        draw = _make_draw(fast, sample, cached)

    def write(
        prompt: Sequence[int], num_tokens: int, seeds: Iterable[int], end: int | None = None
    ) -> Iterator[Iterator[int]]:
        if len(prompt) == 0:
            raise UserError("an empty prompt has no next token", "give at least one token")
        seeds = iter(seeds)
        while together := list(islice(seeds, most)):
            if wrong := [seed for seed in together if not 0 <= seed < 2**64]:
                raise UserError(f"seed {wrong[0]} is out of range", f"give a whole number from 0 to {2**64 - 1}")
            copies = tee(rows(list(map(int, prompt)), num_tokens, together), len(together))
            yield from (_text_of(i, copy, end) for i, copy in enumerate(copies))

    def rows(prompt: list[int], num_tokens: int, seeds: list[int]) -> Iterator[list[int]]:
        drawn = _read(draw(prompt, num_tokens, seeds))
        while True:
            with computing():  # not across the yield: the caller needs its cores then
                row = next(drawn, None)
            if row is None:
                return
            yield row

    return write


def _text_of(i: int, rows: Iterable[list[int]], end: int | None) -> Iterator[int]:
    """The tokens of text `i` of `rows`, each of which has a token of every text, up to the token `end`."""
    for row in rows:
        if row[i] == end:
            return
        yield row[i]


def until(texts: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield the text of `texts` as it comes, up to the first of the strings `stops`, none of them empty. Waits where one may begin."""
    waiting = ""
    for text in texts:
        waiting += text
        # the one that ends first, however the text comes in pieces
        found = [(place + len(stop), place) for stop in stops if (place := waiting.find(stop)) >= 0]
        if found:
            yield waiting[: min(found)[1]]
            return
        kept = max((n for stop in stops for n in range(len(stop)) if waiting.endswith(stop[:n])), default=0)
        yield waiting[: len(waiting) - kept]
        waiting = waiting[len(waiting) - kept :]
    yield waiting


def _read(drawn: Iterator[mx.array]) -> Iterator[list[int]]:
    """The tokens as numbers. Each is read after the next one was started, so that the device is never idle."""
    waiting = None
    for tokens in drawn:
        if waiting is not None:
            yield waiting.tolist()
        waiting = tokens
    if waiting is not None:
        yield waiting.tolist()


def _make_draw(model: GPT, sample: Sampler, cached: bool) -> Callable[[list[int], int, list[int]], Iterator[mx.array]]:
    """Return `draw(prompt, num_tokens, seeds)`: the tokens of all texts as arrays (B,), yielded while the device still works on them."""
    block_size = model.config.block_size
    cache = Cache(model) if cached else None
    decode = make_decode(model, cache, sample) if cache else None
    reread = make_reread(model, sample, cached)

    def draw(prompt: list[int], num_tokens: int, seeds: list[int]) -> Iterator[mx.array]:
        keys = [mx.random.key(seed) for seed in seeds]
        text = mx.array([prompt[-block_size:]] * len(seeds))  # (B, T)
        tokens, new = text[:, -1], list[mx.array]()  # those that were drawn after `text`, each (B, 1)
        if cache:
            cache.state[:], cache.length = Cache(model, len(seeds)).state, mx.array(0)
        for i in range(num_tokens):
            if decode and 0 < i <= block_size - len(prompt):
                tokens, keys = decode(tokens, keys, mx.array(len(prompt) + i - 1))
            else:
                text, new = mx.concatenate([text, *new], axis=1)[:, -block_size:], []
                if i == 0 or text.shape[1] < block_size:  # not compiled, because its length changes
                    tokens, keys = _pick(model.next_logits(text, cache) if cached else model(text)[:, -1], keys, sample)
                else:
                    tokens, keys = reread(text, keys)
            new.append(tokens[:, None])
            mx.async_eval(tokens)
            yield tokens

    return draw


def can_cache(model: GPT) -> bool:
    """Whether a cache leaves the logits of `model` as they are: a block of the user's own may ignore it, or take none."""
    if own_class(model) is None:
        return True
    T = min(model.config.block_size, PROBED_TOKENS)
    idx, cache = mx.arange(T)[None] % model.config.vocab_size, Cache(model)  # (1, T)
    try:
        for part in mx.split(idx, [T // 2, T - 1], axis=1):
            logits = model.next_logits(part, cache) if part.size else None
    except Exception:  # any of the user's own code: the text is then read again for every token
        return False
    return mx.allclose(logits, model(idx)[:, -1], rtol=PROBE_ROUNDING, atol=PROBE_ROUNDING).item()


def make_decode(model: GPT, cache: Cache, sample: Sampler) -> Callable[..., tuple[mx.array, Keys]]:
    """Return `decode(tokens, keys, length)`, compiled: the tokens (B,) after `tokens` (B,) and the `length` ones that `cache` holds,
    and new keys."""

    @partial(mx.compile, inputs=[model.state, cache.state], outputs=cache.state)
    def decode(tokens: mx.array, keys: Keys, length: mx.array) -> tuple[mx.array, Keys]:
        cache.length = length  # given, because to count on the device is an operation more
        return _pick(model.next_logits(tokens[:, None], cache), keys, sample)

    return decode


def make_reread(model: GPT, sample: Sampler, cached: bool = True) -> Callable[..., tuple[mx.array, Keys]]:
    """Return `reread(text, keys)`, compiled: the tokens (B,) after all of `text` (B, T), and new keys. A model that has no cache may
    also have a `__call__` of its own, which is then what writes."""

    @partial(mx.compile, inputs=model.state)
    def reread(text: mx.array, keys: Keys) -> tuple[mx.array, Keys]:
        return _pick(model.next_logits(text) if cached else model(text)[:, -1], keys, sample)

    return reread


def _pick(logits: mx.array, keys: Keys, sample: Sampler) -> tuple[mx.array, Keys]:
    """Tokens (B,) from logits (B, vocab_size), and new keys."""
    pairs = [mx.random.split(key) for key in keys]
    return sample(logits, *(now for _, now in pairs)), [key for key, _ in pairs]


def _keep_top_k(logits: mx.array, k: int) -> mx.array:
    least = mx.topk(logits, k, axis=-1).min(axis=-1, keepdims=True)  # (B, 1)
    return mx.where(logits < least, -math.inf, logits)


def _keep_top_p(logits: mx.array, p: float) -> mx.array:
    falling = mx.sort(logits, axis=-1)[..., ::-1]  # (B, vocab_size)
    probabilities = mx.softmax(falling, axis=-1)
    kept = mx.cumsum(probabilities, axis=-1) - probabilities < p  # keep a token if the ones before it do not reach p
    least = mx.where(kept, falling, math.inf).min(axis=-1, keepdims=True)  # (B, 1)
    least = mx.minimum(least, falling[..., :1])  # a p that float32 rounds to 0 keeps the likeliest
    return mx.where(logits < least, -math.inf, logits)
