"""Supervised fine-tuning and DPO (paper section 4.1, Table 9): from rows to a checkpoint that can be served.

The stage starts a worker process; the worker is Lightning around two short loss modules and one deterministic plan.
"""
