"""The score stages of a pipeline file and what they read, as a Ray job: score and calibrate the candidates.

    ray job submit --working-dir . -- python ray_jobs/score.py --config ray_jobs/configs/demo.yaml [a.b=c]...
"""

from patentft.__main__ import score
from patentft.jobs import main

if __name__ == "__main__":
    main(score)
