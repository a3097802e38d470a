"""Why an engine ended, in one line, from logs of Flink 1.19 and Spark 3.5.6 as they were written."""

from __future__ import annotations

import pytest

from pipelines.streaming.engines.stream_engine import cause, why_ended

JAVA = """Exception in thread "main" java.lang.RuntimeException: Job x failed.
\tat a.b(C.java:1)
Caused by: java.io.IOException: disk full
\tat c
"""
PYTHON = """Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 2: Traceback (most recent call last):
  File "x.py", line 1
ValueError: no [while running 'Fold']

\tat org.x
"""
LOST = """26/11/30 19:04:28 INFO StandaloneAppClient$ClientEndpoint: Executor updated: app-20261130190044-0000/3 is now EXITED (Command exited with code 137)
26/11/30 19:04:28 ERROR TaskSchedulerImpl: Lost executor 3 on 10.77.0.3: Command exited with code 137
26/11/30 19:04:28 WARN TaskSetManager: Lost task 2.0 in stage 4.2 (TID 39) (10.77.0.3 executor 3): ExecutorLostFailure (executor 3 exited caused by one of the running tasks) Reason: Command exited with code 137
26/11/30 19:06:20 INFO StandaloneAppClient$ClientEndpoint: Executor updated: app-20261130190044-0000/5 is now EXITED (Command exited with code 137)
26/11/30 19:06:20 ERROR TaskSchedulerImpl: Lost executor 5 on 10.77.0.2: Command exited with code 137
"""  # noqa: E501
GIVEN_UP = """Exception in thread "main" java.lang.RuntimeException: Job tandem-batch-1 failed.
\tat org.apache.beam.runners.spark.SparkPipelineRunner.main(SparkPipelineRunner.java:278)
Caused by: org.apache.spark.SparkException: Job aborted due to stage failure: ShuffleMapStage 4 (mapPartitionsToPair at GroupNonMergingWindowsFunctions.java:281) has failed the maximum allowable number of times: 4. Most recent failure reason:
org.apache.spark.shuffle.MetadataFetchFailedException: Missing an output location for shuffle 4 partition 0
\tat org.apache.spark.MapOutputTracker$.validateStatus(MapOutputTracker.scala:1739)
"""  # noqa: E501
HUNG_UP = """Exception in thread "main" java.lang.RuntimeException: Job tandem-batch-2 failed.
Caused by: org.apache.spark.SparkException: Job aborted due to stage failure: Task 3 in stage 4.0 failed 4 times, most recent failure: Lost task 3.3 in stage 4.0 (TID 19) (10.77.0.3 executor 1): java.util.concurrent.ExecutionException: org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException: CANCELLED: client cancelled
Caused by: org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException: CANCELLED: client cancelled
"""  # noqa: E501
SHUT_DOWN = """Exception in thread "main" java.lang.RuntimeException: Job tandem-batch-3 failed.
Caused by: org.apache.spark.SparkException: Job 0 cancelled because SparkContext was shut down
\tat org.apache.spark.scheduler.DAGScheduler.cleanUpAfterSchedulerStop(DAGScheduler.scala:1253)
"""
FAILED_WITH_IT = """Exception in thread "main" java.lang.RuntimeException: Job tandem-batch-4 failed.
Caused by: org.apache.spark.SparkException: Job aborted due to stage failure: Task 3 in stage 4.0 failed 4 times, most recent failure: Lost task 3.3 in stage 4.0 (TID 19) (10.77.0.3 executor 3): ExecutorLostFailure (executor 3 exited caused by one of the running tasks) Reason: Command exited with code 137
"""  # noqa: E501
REPLACED = "26/11/30 19:06:23 INFO StandaloneSchedulerBackend$StandaloneDriverEndpoint: Registered executor NettyRpcEndpointRef(spark-client://Executor) (10.77.0.2:34562) with ID 6,  ResourceProfileId 0\n"  # noqa: E501
ENDED = "a worker's process ended without an error, as where the kernel kills it for want of memory"
FIRST = "executors were lost, the last one on 10.77.0.2:"
KILLED = f"{FIRST} it was ended by signal 9, as the kernel does where memory is short"
WHERE = "why is in its stderr, in the folder 'work' of Spark's worker"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (JAVA, "java.io.IOException: disk full"),
        (PYTHON, "ValueError: no [while running 'Fold']"),
        (LOST + GIVEN_UP, KILLED),
        (LOST.replace("code 137", "code 52") + GIVEN_UP, f"{FIRST} its heap was full; give executors more (spark.executor.memory)"),
        (LOST.replace("code 137", "code 1") + GIVEN_UP, f"{FIRST} Command exited with code 1; {WHERE}"),
        (LOST + PYTHON, "ValueError: no [while running 'Fold']"),  # Spark went on without the executors
        (LOST + SHUT_DOWN, KILLED),
        (LOST + REPLACED + SHUT_DOWN, "org.apache.spark.SparkException: Job 0 cancelled because SparkContext was shut down"),
        (LOST + REPLACED + GIVEN_UP, KILLED),  # what it had made was lost with it
        (LOST + REPLACED + FAILED_WITH_IT, KILLED.replace("10.77.0.2", "10.77.0.3")),  # of several losses that of the task's own
        (HUNG_UP, ENDED),
        (HUNG_UP + PYTHON, "ValueError: no [while running 'Fold']"),
        ("something else\n", ""),
        ("", ""),
    ],
)
def test_the_cause_is_found_in_a_log(log: str, line: str) -> None:
    assert cause(log) == line


def test_a_jvm_that_was_killed_did_not_end_for_what_it_had_said_before() -> None:
    assert why_ended(-9, JAVA) == "its JVM was ended by signal 9, as the kernel does where memory is short"
    assert why_ended(-15, JAVA) == "its JVM was ended by signal 15"
    assert (
        why_ended(3, "Terminating due to java.lang.OutOfMemoryError: Java heap space\n") == "the heap of its JVM was full (Java heap space)"
    )
    assert why_ended(1, JAVA) == "java.io.IOException: disk full"
    assert why_ended(1, "") == "it ended with code 1"
