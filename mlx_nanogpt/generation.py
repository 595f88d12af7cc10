"""The GPT writes: a sampler picks a token from the logits, `generate` yields one token after another.

While the text fits into `block_size`, each layer's keys and values are cached. Beyond that, every token is drawn from the
last `block_size` tokens, all read again, as in the lecture: positions are absolute and shift, so a cache would be wrong.
"""

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from .errors import UserError
from .machine import machine
from .model import GPT, Cache, own_class

PROBED_TOKENS, PROBE_ROUNDING = 16, 1e-3
COLDEST = 1e-6  # below this temperature logits would overflow float32; the draw is the argmax anyway

Sampler = Callable[[mx.array, mx.array], mx.array]
NextToken = Callable[..., tuple[mx.array, mx.array]]


def make_sampler(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampler:
    """Return `sample(logits, key)`, which picks token ids (B,) from logits (B, vocab_size) with a random key: draws from the softmax of
    `make_filter`'s. Raises `UserError` as that does."""
    keep = make_filter(temperature, top_k, top_p)

    def sample(logits: mx.array, key: mx.array) -> mx.array:
        if temperature < COLDEST:
            return mx.argmax(logits, axis=-1)
        # Gumbel's trick draws from the softmax in half the kernels of mx.random.categorical
        return mx.argmax(keep(logits) + mx.random.gumbel(logits.shape, key=key), axis=-1)

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
    yield from make_writer(model, sample)(prompt, num_tokens, seed, end)


def make_writer(model: GPT, sample: Sampler | None = None) -> Callable[..., Iterator[int]]:
    """Return `write(prompt, num_tokens, seed, end)`: `generate`, whose preparation and compiled functions serve several texts, one after
    the other. The weights must not change from now on."""
    model.eval()
    sample, cached = sample or make_sampler(), can_cache(model)
    fast, computing = machine().for_inference(model)
    with computing():
        draw = _make_draw(fast, sample, cached)

    def write(prompt: Sequence[int], num_tokens: int, seed: int | None = None, end: int | None = None) -> Iterator[int]:
        seed = secrets.randbits(64) if seed is None else seed
        if not 0 <= seed < 2**64:
            raise UserError(f"seed {seed} is out of range", f"give a whole number from 0 to {2**64 - 1}")
        if len(prompt) == 0:
            raise UserError("an empty prompt has no next token", "give at least one token")
        tokens = _read(draw(list(map(int, prompt)), num_tokens, seed))
        while True:
            with computing():  # not across the yield: the caller needs its cores then
                token = next(tokens, None)
            if token is None or token == end:
                return
            yield token

    return write


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


def _read(drawn: Iterator[mx.array]) -> Iterator[int]:
    """The tokens as numbers. Each is read after the next one was started, so that the device is never idle."""
    waiting = None
    for token in drawn:
        if waiting is not None:
            yield waiting.item()
        waiting = token
    if waiting is not None:
        yield waiting.item()


def _make_draw(model: GPT, sample: Sampler, cached: bool) -> Callable[[list[int], int, int], Iterator[mx.array]]:
    """Return `draw(prompt, num_tokens, seed)`: the tokens as arrays (1,), yielded while the device still works on them."""
    block_size = model.config.block_size
    cache = Cache(model) if cached else None
    decode = make_decode(model, cache, sample) if cache else None
    reread = make_reread(model, sample, cached)

    def draw(prompt: list[int], num_tokens: int, seed: int) -> Iterator[mx.array]:
        key = mx.random.key(seed)
        text = mx.array([prompt[-block_size:]])  # (1, T)
        token, new = text[:, -1], list[mx.array]()  # those that were drawn after `text`, each (1, 1)
        if cache:
            cache.length = mx.array(0)  # an earlier text beyond it is masked
        for i in range(num_tokens):
            if decode and 0 < i <= block_size - len(prompt):
                token, key = decode(token, key, mx.array(len(prompt) + i - 1))
            else:
                text, new = mx.concatenate([text, *new], axis=1)[:, -block_size:], []
                if i == 0 or text.shape[1] < block_size:  # not compiled, because its length changes
                    token, key = _pick(model.next_logits(text, cache) if cached else model(text)[:, -1], key, sample)
                else:
                    token, key = reread(text, key)
            new.append(token[:, None])
            mx.async_eval(token)
            yield token

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


def make_decode(model: GPT, cache: Cache, sample: Sampler) -> NextToken:
    """Return `decode(token, key, length)`, compiled: the token (1,) after `token` (1,) and the `length` ones that `cache` holds, and a
    new key."""

    @partial(mx.compile, inputs=[model.state, cache.state], outputs=cache.state)
    def decode(token: mx.array, key: mx.array, length: mx.array) -> tuple[mx.array, mx.array]:
        cache.length = length  # given, because to count on the device is an operation more
        return _pick(model.next_logits(token[:, None], cache), key, sample)

    return decode


def make_reread(model: GPT, sample: Sampler, cached: bool = True) -> NextToken:
    """Return `reread(text, key)`, compiled: the token (1,) after all of `text` (1, T), and a new key. A model that has no cache may
    also have a `__call__` of its own, which is then what writes."""

    @partial(mx.compile, inputs=model.state)
    def reread(text: mx.array, key: mx.array) -> tuple[mx.array, mx.array]:
        return _pick(model.next_logits(text) if cached else model(text)[:, -1], key, sample)

    return reread


def _pick(logits: mx.array, key: mx.array, sample: Sampler) -> tuple[mx.array, mx.array]:
    key, now = mx.random.split(key)
    return sample(logits, now), key


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
