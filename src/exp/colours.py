"""Colours of runs in MLflow's charts: a hue for each method, a shade for each of its runs."""

import colorsys

from exp import registry

HUES = (0.58, 0.70, 0.80, 0.98, 0.14, 0.48, 0.88, 0.07, 0.35, 0.22, 0.02, 0.42)
"""Of the methods in the order of their names: blue, indigo, purple, red, yellow, teal, pink, orange, green; lime, brick, jade.
Those that are compared most, autograd, numpy and tensor, are blue, orange and green."""


def colours(methods: list[str]) -> list[str]:
    """`#rrggbb` for each run, given the method of each. A method of `conf/` has the same hue in every sweep."""
    order = list(dict.fromkeys([*registry.choices("method"), *methods]))
    seen: dict[str, int] = {}
    found = []
    for method in methods:
        place, count = seen.get(method, 0), methods.count(method)
        seen[method] = place + 1
        lightness = 0.45 if count == 1 else 0.30 + 0.38 * place / (count - 1)
        red, green, blue = colorsys.hls_to_rgb(HUES[order.index(method) % len(HUES)], lightness, 0.75)
        found.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return found
