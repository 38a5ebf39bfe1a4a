"""Progress bars: tqdm's, with a lock that is this process's own."""

from __future__ import annotations

import threading

from tqdm import tqdm

# tqdm's own lock is one that forked processes share: a child that is killed while it holds it (kill -9 of a batch's
# worker) would leave its parent waiting for it at the next bar, forever.
tqdm.set_lock(threading.RLock())

__all__ = ["tqdm"]
