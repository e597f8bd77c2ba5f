"""Metrics of generated images, on features alone: one file each, which opens with its equation.

Rows are features [N, D], float32 or float64, and finite; what is summed or subtracted is float64.
A metric trusts its caller to have checked that there are enough rows: `rows_needed` of each says
how many, and with fewer a ValueError is raised.
"""
