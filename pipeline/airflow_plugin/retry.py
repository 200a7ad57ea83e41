"""What Airflow may try again: a step that was not ready, and a network that failed. Nothing else.

The adapters raise the trouble of object storage and of the database as ``NotReadyError``. A failed check, a
reconciliation that is not zero or a wrong project file is the same at the next try, and repeating it only hides it. A
worker that dies raises nothing, so a lost task is retried whatever this policy says.
"""

from __future__ import annotations

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from pipeline.core.errors import NotReadyError

RETRY_NOT_READY_AND_NETWORK = ExceptionRetryPolicy(
    rules=[
        RetryRule(NotReadyError, RetryAction.RETRY, reason="evidence or time is missing; it may be there next time"),
        RetryRule([ConnectionError, TimeoutError], RetryAction.RETRY, reason="the network failed"),
    ],
    default=RetryAction.FAIL,
)
