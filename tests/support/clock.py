"""A clock that jumps when told to."""


class JumpingClock:
    def __init__(self, time: float = 1_790_000_000.0) -> None:
        self.now = time

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def jump(self, seconds: float) -> None:
        self.now += seconds
