"""Two months of weather as jobs, from a program: no server, no FlowerPower."""

from pathlib import Path

from penstock import JobQueue

if __name__ == "__main__":
    with JobQueue.from_config(Path(__file__).parent) as queue, queue.worker(concurrency=2):
        calls = [queue.pipeline("weather", inputs={"month": month}, final_vars=["month_summary"]) for month in (1, 7)]
        for job in queue.enqueue_many(calls):
            print(job.result(timeout=120)["month_summary"])
