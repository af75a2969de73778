"""How long `split_table` takes and how much memory, at a million crops, and beside `iterative-stratification` on a smaller table.

    python benchmarks/split_speed.py [--rows 1000000] [--small 20000] [--out benchmarks/results/split_speed.csv]

Each case runs in a process of its own, one after the other. Seconds: the split alone, without drawing the table. Memory: peak of the whole process, with Python,
its libraries (about 0.2 GB) and the table."""
import argparse, resource, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd

SHARES = dict(complete=[83.7, 16.3], condition=[29.7, 62.5, 7.8], material=[23.9, 63.5, 6, 4.2, .6, 1.1, .4, .3], security=[25, 75], use=[85.5, 1, 6.8, 6.7])

def draw_table(n, per_photo=1, n_sequences=0, seed=42):
    "`n` crops with five properties, 19 classes, 5 % of the security labels unknown"
    from hp_fastai.schema import Schema
    rng,schema = np.random.default_rng(seed),Schema.housing_passports()
    df = pd.DataFrame({k: rng.choice(schema[k].classes, n, p=np.array(v)/sum(v)) for k,v in SHARES.items()})
    df.loc[rng.random(n)<.05, 'security'] = None
    df['file_name'] = [f'crop_{i}.jpg' for i in range(n)]
    photo = np.sort(rng.integers(0, max(n//per_photo, 1), n)) if per_photo>1 else np.arange(n)
    df['file_name_original'] = [f'{i}.jpg' for i in photo]
    if n_sequences: df['sequence'] = [f's{i}' for i in photo*n_sequences//(photo.max()+1)]
    return df,schema

def iterative(df, schema):
    "70 to 30, then 60 to 40, by iterative stratification; ungrouped"
    from hp_fastai.split import label_strata
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
    y,part = label_strata(df, schema).to_numpy(int),np.full(len(df), 'train', object)
    def _cut(rows, size): return [rows[o] for o in next(MultilabelStratifiedShuffleSplit(1, test_size=size, random_state=0).split(y[rows], y[rows]))]
    _,rest = _cut(np.arange(len(df)), .3)
    part[rest] = 'valid'
    part[_cut(rest, .4)[1]] = 'test'
    return df.assign(split=part)

CASES = {'one crop a photo':    (1, 0, None),
         'in photos of 7':      (7, 0, None),
         'in 2000 sequences':  (7, 2000, 'sequence')}

def run_case(case, n, how):
    "Seconds, peak memory and deviations of one case, as one line of CSV"
    from hp_fastai.split import split_table, audit_split, PARTS
    per_photo,n_sequences,group = CASES[case]
    df,schema = draw_table(n, per_photo, n_sequences)
    start = time.perf_counter()
    res = split_table(df, schema, group=group) if how=='split_table' else iterative(df, schema)
    took,peak = time.perf_counter()-start,resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)
    audit = audit_split(res, schema, group=group)
    off = audit.table[list(PARTS)].sub(audit.table.whole, axis=0).abs()
    return f'{how},{case},{n},{took:.2f},{peak/1e9:.2f},{off.max(axis=None):.2e},{off.mean(axis=None):.2e},{len(audit.overlap)}'

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--rows', type=int, default=1_000_000)
    args.add_argument('--small', type=int, default=20_000)
    args.add_argument('--out', default='benchmarks/results/split_speed.csv')
    args.add_argument('--case', nargs=3, help='run one case in this process: NAME ROWS HOW')
    o = args.parse_args()
    if o.case: return print(run_case(o.case[0], int(o.case[1]), o.case[2]))
    todo = [(c, o.rows, 'split_table') for c in CASES] + [('one crop a photo', o.small, how) for how in ('split_table', 'iterative-stratification')]
    lines = [subprocess.run([sys.executable, __file__, '--case', c, str(n), how], capture_output=True, text=True, check=True).stdout.strip().split(',') for c,n,how in todo]
    df = pd.DataFrame(lines, columns=['how', 'case', 'crops', 'seconds', 'peak_gb', 'largest_deviation', 'mean_deviation', 'groups_torn'])
    print(df.to_string(index=False))
    print(f"iterative-stratification / split_table at {o.small:,} crops: {float(df.seconds.iloc[-1])/float(df.seconds.iloc[-2]):.1f} x the time")
    Path(o.out).parent.mkdir(parents=True, exist_ok=True)
    df.to_csv(o.out, index=False)

if __name__=='__main__': main()
