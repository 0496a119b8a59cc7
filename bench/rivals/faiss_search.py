"""FAISS on the arrays of a benchmark. Reads requests as JSON lines, answers each with one JSON line.

A request: { "codes": file, "queries": file, "dim": d, "k": k, "threads": t, "metric": "l2" | "ip", "runs": r,
"indices": file to write }. The answer: { "seconds": median of a search } or { "error": text }.
"""
import json
import statistics
import sys
import time

import faiss
import numpy as np


def search(request):
    dim = request["dim"]
    codes = np.fromfile(request["codes"], np.float32).reshape(-1, dim)
    queries = np.fromfile(request["queries"], np.float32).reshape(-1, dim)
    faiss.omp_set_num_threads(request["threads"])
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


print(json.dumps({"version": faiss.__version__}), flush=True)
for line in sys.stdin:
    try:
        answer = search(json.loads(line))
    except Exception as error:  # the benchmark prints it beside the row
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
