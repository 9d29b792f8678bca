"""What `MiddlewareContract` takes for growth: more held, and not other values in the same places."""

from agent_runtime.testing.growth import growth, sizes


class Counting:
    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers


def test_other_numbers_in_the_same_places_are_no_growth() -> None:
    layer = Counting([0, 0, 0, 0])
    before = sizes(layer)
    layer.numbers[:] = [1_000, 2_000, 3_000, 4_000]
    assert growth(before, sizes(layer)) == {}


def test_more_of_the_same_number_is_growth() -> None:
    layer = Counting([7])
    before = sizes(layer)
    layer.numbers.extend([7] * 30)
    assert growth(before, sizes(layer)) == {"numbers": 30}
