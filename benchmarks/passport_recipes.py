"""Housing Passports v2's training beside ours, on the rendered street (hard) and on real facades: same backbone, same pixels, same number of crops seen.

    python benchmarks/passport_recipes.py [--data ../shared/data] [--only street facades] [--recipes hpv2 ours hpv2_undivided] [--seeds 3] [--epochs 10] [--size 96]

Both recipes are `hp_fastai.recipes.passport`, their epochs, frozen epochs and milestones scaled down in proportion, crops cached at `--size`. Every recipe of a seed gets the same
split, and only the test part is scored: HPv2's best checkpoint by total F1, our running average. At full size, with a CUDA GPU and timm's weights:

    python benchmarks/passport_recipes.py --arch convnextv2_tiny --pretrained --size 512 --bs 32 --epochs 50 --photos 7000 --name full

Results are written run by run to `results/passport_recipes.csv`, and those already there are not made again; `results/passport_recipes.md` is the readable table."""
import argparse, tempfile, time, warnings
from dataclasses import replace
from pathlib import Path
import pandas as pd, torch
from real_photos import ARCH, TRUNK, _cell, _cell_seconds, add_rows, facades_task, is_done, test_scores
from hp_fastai.data import *
from hp_fastai.interpret import *
from hp_fastai.recipes.passport import *
from hp_fastai.schema import *
from hp_fastai.split import *
from hp_fastai.street import *

warnings.filterwarnings('ignore')
RESULTS = Path(__file__).parent/'results'
COMMAND = 'python benchmarks/passport_recipes.py'
COLUMNS = dict(hpv2='HPv2, to the letter', hpv2_undivided="HPv2, backbone at the heads' rate", ours='ours')

def soft_shares():
    "Class shares by the square root of the published ones: the same order, but every class has crops enough to be scored"
    return {p: {c: v**.5 for c,v in shares.items()} for p,shares in PUBLISHED_SHARES.items()}

def street_data(o, seed):
    "Table, schema and folder of a hard street: dusk, rain, trees, cars, blur; drives are not torn apart. One street, another split for each seed"
    work,schema = o.work/f'street_{o.photos}',Schema.housing_passports()
    if not (work/'table.csv').exists(): street_table(work, o.photos, 42, difficulty=1., shares=soft_shares()).to_csv(work/'table.csv', index=False)
    df = read_table(work/'table.csv', schema.names)
    return split_table(df.drop(columns='split'), schema, (.6, .12, .28), group='sequence', seed=seed),schema,work/'crops'

def facades_data(o, seed):
    "Table, schema and folder of the real facades, as in `real_photos.py`"
    task = facades_task(o.data, o.work, seed)
    return task.df.assign(weights=1),task.schema,task.path

DATA = dict(street=street_data, facades=facades_data)

def recipe_of(name, o, dataset, seed):
    "The recipe `name` at the benchmark's size"
    r = (OurRecipe() if name=='ours' else HPv2Recipe(backbone_div=1. if name=='hpv2_undivided' else 10.)).scaled(o.epochs)
    if name=='ours': r = replace(r, find_batches=o.find_batches)
    elif dataset=='facades': r = replace(r, property_weights=None)   # HPv2's five belong to its own properties
    return replace(r, arch=o.arch, size=o.size, bs=o.bs, seed=seed)

def run_recipe(dataset, name, o, seed):
    "Scores on the test part, and the seconds of the training (lr_find included)"
    df,schema,path = DATA[dataset](o, seed)
    recipe = recipe_of(name, o, dataset, seed)
    extra = {k: v for k,v in ARCH.items() if k!='arch'} if o.arch==ARCH['arch'] else {}
    dls = recipe.loaders(df, path, schema, None if o.whole else o.work/'cache', o.workers)
    learn = recipe.learner(dls, o.work/f'{dataset}_{name}_{seed}', o.pretrained, None if o.pretrained else o.data/TRUNK, log=None, cbs=RateLog(None), **extra)
    if not torch.cuda.is_available(): learn.model.to(memory_format=torch.channels_last)   # the CPU convolves 1.6 times as fast
    start,cpu = time.perf_counter(),time.process_time()
    with learn.no_bar(), learn.no_logging():
        recipe.fit(learn)
        took,cpu = time.perf_counter()-start,time.process_time()-cpu
        interp = PropertyInterpretation.from_learner(learn, dl=dls.test_dl(with_labels=True, num_workers=0))
    seen = recipe.epochs*(len(dls.train)*o.bs if dls.train.drop_last else len(dls.train_ds))
    return {**test_scores(schema, interp.targs, interp.probs), 'f1_macro_mean': interp.scores().f1_macro.mean(), 'crops_seen': seen, 'cpu_seconds': cpu},took

# ---- the readable table ----

TEXTS = dict(
    street="{n} crops of a rendered street at the highest difficulty (dusk, rain, trees, cars, blur), classes as frequent as the square root of the published shares. Split "
           "60/12/28 by drive. Macro F1 of each property; `f1_macro_mean` is the mean of the five.",
    facades="681 facades in New York and Zurich (see `real_photos.md`): `material` (several), `city`, `no_facade`. Split 70/10/20. HPv2 has no property weights for these, all are 1.")

def _rows(df):
    "Metrics worth a line: macro F1, mean average precision, crops seen"
    return [k for k in df.metric.drop_duplicates() if k.endswith('_f1_macro') or k in ('f1_macro_mean', 'mean_ap', 'crops_seen', 'cpu_seconds')]

def _line(df, models, k):
    cells = [df[(df.metric==k) & (df.model==m)].value for m in models]
    return f'| {k} | ' + ' | '.join(f'{o.mean():.0f}' if k in ('crops_seen', 'cpu_seconds') else _cell(o) for o in cells) + ' |'

def _table(df):
    "One line per metric, one column per recipe"
    models = [m for m in COLUMNS if (df.model==m).any()]
    heads = [f"{COLUMNS[m]} ({df[df.model==m].seed.nunique()} seeds)" for m in models]
    took = ' | '.join(_cell_seconds(df[df.model==m].drop_duplicates('seed').seconds) for m in models)
    return '\n'.join(['| test part | ' + ' | '.join(heads) + ' |', '|---'*(len(heads)+1) + '|', *(_line(df, models, k) for k in _rows(df)), f'| seconds of training, on a shared core | {took} |'])

def _ahead(df, a, b):
    "In how many seeds `a` scores higher than `b`, for each macro F1"
    f1 = df[df.metric.str.endswith('_f1_macro') & df.model.isin([a, b])].pivot_table(index=['metric', 'seed'], columns='model', values='value')
    if not {a, b} <= set(f1): return ''
    f1 = f1.dropna()
    won = (f1[a]>f1[b]).groupby('metric', sort=False).agg(['sum', 'size'])
    return ', '.join(f"{k.removesuffix('_f1_macro')} {w} of {n}" for k,w,n in zip(won.index, won['sum'], won['size']))

def _verdict(df):
    "Who is ahead where, seed by seed"
    lines = [f'- {d}, against {COLUMNS[m]}: {won}' for d in TEXTS for m in COLUMNS if m!='ours' for won in [_ahead(df[df.dataset==d], 'ours', m)] if won]
    return 'Seeds in which the macro F1 of ours is higher:\n\n' + '\n'.join(lines) + '\n' if lines else ''

CAVEAT = ("HPv2's rates were chosen for some 13,000 steps at full size. Here there are only a few hundred, and its backbone, a hundredth of the heads' first rate behind, "
          "hardly moves in them. So this tells which recipe to take for little data and little time, and not what HPv2 is worth at full size, which was not measured here.\n")

def write_report(csv, command, o):
    "Write the readable table beside the CSV"
    df = pd.read_csv(csv)
    parts = [f'## {name}\n\n{text.format(n=o.n_crops.get(name))}\n\n{_table(df[df.dataset==name])}\n' for name,text in TEXTS.items() if (df.dataset==name).any()]
    head = (f"# Two recipes\n\nHousing Passports v2's training and ours, both from `hp_fastai.recipes.passport`: `{o.arch}`, {o.size} pixels, batches of {o.bs}, {o.epochs} epochs in place of 50 "
            "(frozen epochs and milestones in proportion), the same split for both in each seed. Mean ± standard deviation over the seeds, each with a split of its own. "
            f"Ours spends another {o.find_batches} batches on `lr_find` before it starts; their weights are thrown away, their time is counted. Seconds: training and validation.\n\nMade by\n\n    {command}\n" + (f"    {command} --recipes hpv2_undivided\n" if (df.model=='hpv2_undivided').any() else ''))
    csv.with_suffix('.md').write_text('\n'.join([head, _verdict(df), *([] if o.pretrained else [CAVEAT]), *parts]))

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with facades and weights')
    args.add_argument('--only', nargs='+', choices=list(DATA), default=list(DATA))
    args.add_argument('--recipes', nargs='+', choices=list(COLUMNS), default=['hpv2', 'ours'])
    args.add_argument('--seeds', type=int, default=3)
    args.add_argument('--epochs', type=int, default=10)
    args.add_argument('--size', type=int, default=96)
    args.add_argument('--bs', type=int, default=16)
    args.add_argument('--photos', type=int, default=340, help='of the rendered street')
    args.add_argument('--find-batches', type=int, default=40, help='for lr_find')
    args.add_argument('--arch', default=ARCH['arch'])
    args.add_argument('--pretrained', action='store_true', help="timm's ImageNet weights, instead of the trunk in --data")
    args.add_argument('--whole', action='store_true', help='no cache: HPv2 zooms into whole crops, as it did')
    args.add_argument('--workers', type=int, default=0)
    args.add_argument('--name', default='passport_recipes', help='of the files in results')
    args.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'hp_fastai_passport_recipes', help='folder for street, cache and checkpoints')
    o = args.parse_args()
    o.n_crops,csv = {},RESULTS/f'{o.name}.csv'
    for seed in range(o.seeds):
        for dataset in o.only:
            o.n_crops[dataset] = len(DATA[dataset](o, seed)[0])
            for name in o.recipes:
                if is_done(csv, dataset, name, seed): continue
                scores,took = run_recipe(dataset, name, o, seed)
                print(dataset, seed, name, {k: round(float(v), 3) for k,v in scores.items() if 'f1' in k or k=='mean_ap'}, f'{took:.0f} s', flush=True)
                add_rows(csv, dataset, name, seed, scores, took)
                write_report(csv, COMMAND, o)
    write_report(csv, COMMAND, o)

if __name__=='__main__': main()
