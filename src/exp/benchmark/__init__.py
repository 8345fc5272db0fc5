"""Honest timing: how fast is a step, by how much faster than another, how surely, and were the timed steps the right ones?

`worker` runs one combination, in a process of its own (`processes` is the parent's end of it); `session` interleaves the
timed blocks of all; `statistics` and `decision` say what the times mean; `replay` judges the timed blocks; `cheats` names
what a clock alone would not see; `costs` and `ceilings` say what the machine could do. How and why: docs/benchmark.md.
"""
