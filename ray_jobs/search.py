"""The search stages of a pipeline file and what they read, as a Ray job: embed and prefilter.

    ray job submit --working-dir . -- python ray_jobs/search.py --config ray_jobs/configs/demo.yaml [a.b=c]...
"""

from patentft.__main__ import search
from patentft.jobs import main

if __name__ == "__main__":
    main(search)
