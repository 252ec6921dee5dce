"""Two coarser levels by ``zarr-vectors`` 0.9.2, in a process of its own: seconds, CPU and peak memory as JSON."""

import json
import resource
import sys
import time

from zarr_vectors.core.store import list_resolution_levels, open_store
from zarr_vectors.multiresolution.coarsen import build_pyramid

path = sys.argv[1]
began, cpu = time.perf_counter(), time.process_time()
build_pyramid(path, factors=[(2, 1), (2, 1)], chunk_scale_factors=[2, 2], cross_level_storage="none")
told = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
told["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
told["levels"] = len(list_resolution_levels(open_store(path)))
print(json.dumps(told))
