import dataclasses

from jaxdiff.training.metrics_logging import AHEAD, Pace


@dataclasses.dataclass
class Result:
    """What a step gives, once somebody waits for it."""

    number: int
    waited_for: list

    def block_until_ready(self):
        self.waited_for.append(self.number)
        return self


def test_the_host_is_never_further_ahead_than_it_says():
    pace, waited_for = Pace(), []
    for number in range(10):
        pace({"loss": Result(number, waited_for)})
        assert number - (waited_for or [-1])[-1] <= AHEAD
    assert waited_for == list(range(10 - AHEAD)), "each is waited for once, none too early"
