"""A sweep: the runs of one `python -m exp -m …`, planned and checked before the first starts, resumed by repeating the command.

`running` does it; what is kept of it is `exp.sweep_folder`.
"""
