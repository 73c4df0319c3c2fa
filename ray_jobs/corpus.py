"""The corpus stages of a pipeline file, as a Ray job: read, check and split the raw files.

    ray job submit --working-dir . -- python ray_jobs/corpus.py --config ray_jobs/configs/demo.yaml [a.b=c]...
"""

from patentft.__main__ import corpus
from patentft.jobs import main

if __name__ == "__main__":
    main(corpus)
