"""Verification: is a method's training step right, where does it first go wrong, how small a fault would have been seen?

`reference` is the float64 step, by torch alone; `probes` are the states and batches at which a method is judged; `subject`
drives the method; `tolerance` says how far a correct method may be off; `judge` compares; `locate` finds the layer and the
beat of a fault; `verdict` is what comes out; `kit` asks further, by the checks of `contract`. The mathematics: docs/verdict.md.
Nothing here imports a formula of the package: a reference that shares formulas with the judged shares their faults.
"""
