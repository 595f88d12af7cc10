"""A training that has become slower, for example by heat or another program, is noticed."""

from collections import deque

LONG = 60.0  # seconds of training
SHARE = 2 / 3  # of the fastest minute


class Slowdown:
    """Follows the speed of a training. Says once if the last minute is slower than the fastest by more than a third."""

    def __init__(self) -> None:
        self.seconds, self.tokens, self.fastest, self.told = 0.0, 0, 0.0, False
        self.past: deque[tuple[float, int]] = deque([(0.0, 0)])  # seconds and tokens, over a minute and a little more

    def note(self, tokens: int, seconds: float) -> tuple[float, float] | None:
        """Add `tokens` that took `seconds`. The first time that the training is too slow, return the speeds of the fastest
        minute and of the last one, in tokens/s; otherwise None."""
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self.past.append((self.seconds, self.tokens))
        while self.seconds - self.past[1][0] >= LONG:
            self.past.popleft()
        started, before = self.past[0]
        if self.told or self.seconds - started < LONG:
            return None
        speed = (self.tokens - before) / (self.seconds - started)
        self.fastest = max(self.fastest, speed)
        self.told = speed < SHARE * self.fastest
        return (self.fastest, speed) if self.told else None
