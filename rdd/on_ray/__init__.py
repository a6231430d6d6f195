"""All stages that run on Ray: fetching, embedding, training, sweeps, ablations, figures. Only this package imports ray."""

import os

# read when ray is imported: a thread that calls Ray after the session's end gets an error, where it would start a second Ray
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
