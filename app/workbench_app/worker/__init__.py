"""The process that holds the models and runs the work, apart from the one that serves the page.

A native library that crashes, a machine that runs out of memory or a model whose template never ends takes this process
with it and not the page: the run at hand is marked failed, everything shown stays, and the process is started anew.
Between the two goes plain JSON over a pipe. To add a kind of work, write a function in :mod:`.jobs`.
"""

from workbench_app.worker.client import QueueFull, Worker, WorkerLost

__all__ = ["QueueFull", "Worker", "WorkerLost"]
