"""The smallest program: a function becomes a job, a worker in the background runs it, the result comes back.

Run it: python examples/hello.py
"""

import tempfile

from penstock import JobQueue, task


@task
def hello(name: str) -> str:
    return f"Hello {name}"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        JobQueue(root=folder) as queue,  # the embedded default: Huey and SQLite files in .penstock/, no server
        queue.worker(concurrency=2),
    ):
        job = queue.enqueue(hello, "Ada")
        print(job.result(timeout=30))


if __name__ == "__main__":
    main()
