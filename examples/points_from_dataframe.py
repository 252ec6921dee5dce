"""Write the columns of a Dask DataFrame: a CSV file per partition, read on the workers. Runs on the threads of this process."""

from pathlib import Path

import dask.dataframe as dd
import pandas as pd

import dask_zv as dzv

data = Path(__file__).resolve().parent / "data" / "hemibrain"
frame = dd.read_csv(str(data / "*.synapses.csv"), blocksize=None)

store = dzv.create("synapses.zv", chunk_shape=(4096, 4096, 4096), overwrite=True)
report = dzv.write_points(store, frame, attributes=["type", "roi", "confidence"])
print(report)

synapses = dzv.open("synapses.zv").level(0).read()
found = pd.Series(synapses.attributes["roi"]).value_counts(dropna=False)
assert found.sum() == len(frame)
print(found.to_string())
