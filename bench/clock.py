"""A racer's stop watch, which stands while accuracy is measured, and a plain one."""

import time
from collections.abc import Callable

GRID = 10_000  # training images from one look at the accuracy to the next, the same for all racers


class FinishedError(Exception):
    """The race is over for this racer."""


class Clock:
    """until: the accuracy that ends the race. horizon: seconds of training that end it too.

    images, seconds, accuracy: lists, an entry a look: training images and seconds spent so far,
    and the test accuracy then.
    """

    def __init__(self, until: float, horizon: float):
        self.until, self.horizon = until, horizon
        self.images, self.seconds, self.accuracy = [], [], []
        self.started = self._since = time.monotonic()
        self._spent = 0.0

    def start(self) -> None:
        """What comes from now on is training."""
        self.started = self._since = time.monotonic()

    def look(self, images: int, accuracy: Callable[[], float], last: bool = False) -> None:
        """To be called after every step; measures when another `GRID` of images is done, and at
        the `last` step. Raises `FinishedError` when the race is over."""
        if images < GRID * (len(self.images) + 1) and not last:
            return
        self._spent += time.monotonic() - self._since
        self.images.append(images)
        self.seconds.append(self._spent)
        self.accuracy.append(float(accuracy()))
        if last or self.accuracy[-1] >= self.until or self._spent >= self.horizon:
            raise FinishedError
        self._since = time.monotonic()


def time_of(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.monotonic()
    function()
    return time.monotonic() - begin
