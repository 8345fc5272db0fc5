"""Colours of runs: a method looks the same wherever it is drawn."""

from exp import registry
from exp.colours import colours


def test_a_method_has_its_hue_in_every_sweep_and_no_two_have_the_same() -> None:
    every = list(registry.choices("method"))
    palette = dict(zip(every, colours(every), strict=True))
    assert len(set(palette.values())) == len(every)
    assert colours(["tensor", "mine", "autograd"])[::2] == [palette["tensor"], palette["autograd"]]
    assert colours(["mine"])[0] not in palette.values()
