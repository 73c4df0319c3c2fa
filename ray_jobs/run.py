"""All stages of a pipeline file, as a Ray job; finished ones are left as they are.

    ray job submit --working-dir . -- python ray_jobs/run.py --config ray_jobs/configs/demo.yaml [a.b=c]...
"""

from patentft.__main__ import run
from patentft.jobs import main

if __name__ == "__main__":
    main(run)
