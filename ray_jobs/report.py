"""The report stages of a pipeline file and what they read, as a Ray job.

    ray job submit --working-dir . -- python ray_jobs/report.py --config ray_jobs/configs/demo.yaml [a.b=c]...
"""

from patentft.__main__ import report
from patentft.jobs import main

if __name__ == "__main__":
    main(report)
