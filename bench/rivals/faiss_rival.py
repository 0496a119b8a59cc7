"""FAISS on the arrays of a benchmark. Reads requests as JSON lines, answers each with one JSON line.

search: { "task": "search", "codes": file, "queries": file, "dim": d, "k": k, "threads": t, "metric": "l2" | "ip",
"runs": r, "indices": file to write }. The answer: { "seconds": median of a search }.

kmeans: { "task": "kmeans", "vectors": file, "init": file, "dim": d, "threads": t, "iterations": i }. The answer:
{ "seconds": of one iteration, "objectives": before each }.

Any task may answer { "error": text }.
"""
import json
import statistics
import sys
import time

import faiss
import numpy as np


def rows(file, dim):
    return np.fromfile(file, np.float32).reshape(-1, dim)


def search(request):
    dim = request["dim"]
    codes = rows(request["codes"], dim)
    queries = rows(request["queries"], dim)
    index = faiss.IndexFlatL2(dim) if request["metric"] == "l2" else faiss.IndexFlatIP(dim)
    index.add(codes)
    index.search(queries, request["k"])
    times = []
    for _ in range(request["runs"]):
        started = time.perf_counter()
        _, found = index.search(queries, request["k"])
        times.append(time.perf_counter() - started)
    found.astype(np.int32).tofile(request["indices"])
    return {"seconds": statistics.median(times)}


def kmeans(request):
    dim = request["dim"]
    vectors = rows(request["vectors"], dim)
    init = rows(request["init"], dim)
    # No subsampling: every vector takes part, as in ours.
    learner = faiss.Kmeans(
        dim, len(init), niter=request["iterations"], max_points_per_centroid=len(vectors), min_points_per_centroid=1
    )
    learner.train(vectors, init_centroids=init)
    stats = learner.iteration_stats  # times since the first iteration began
    return {"seconds": stats[-1]["time"] / len(stats), "objectives": [float(step["obj"]) for step in stats]}


TASKS = {"search": search, "kmeans": kmeans}

print(json.dumps({"version": faiss.__version__}), flush=True)
for line in sys.stdin:
    try:
        request = json.loads(line)
        faiss.omp_set_num_threads(request["threads"])
        answer = TASKS[request["task"]](request)
    except Exception as error:  # the benchmark prints it beside the row
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
