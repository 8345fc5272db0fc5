"""The comparison of runs: what differs between them, what is measured relative to a baseline, and the page that shows it.

trials, selection      runs read from their folders, and which of them are compared
differences, pair      what differs apart from the declared factors; everything that differs between two
spread, verdicts       statistics over seeds; what is known about the correctness of each run
table, warnings        the settings relative to the baseline, and where n cannot tell two apart
curves, charts, page   losses at full resolution; plotly figures; one self-contained HTML file
files, frame, watch    what is written, what `exp.results` returns, the live table
"""
