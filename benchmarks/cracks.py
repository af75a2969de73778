"""Cracks on real photos of masonry and concrete: proposals, six ways to train the classifier, and the second stage beside the network's own head.

    python benchmarks/cracks.py [--data ../shared/data] [--seed 0] [--work FOLDER]

True boxes are derived from the masks. The network is `mobilenetv2_035` from an ImageNet trunk at 64 pixels, so that all of it takes about twenty minutes of one core; the original's was a
`resnext50_32x4d` at 224 pixels on other photos, so its numbers are marks, not rivals. Split by photo, 70/15/15; only the test part is scored. Results are written run by run to
`results/cracks.csv`, and those already there are not made again; `results/cracks.md` is the readable table. No photo is written to `results`."""
import argparse, tempfile, time, warnings
from pathlib import Path
import pandas as pd
from hp_fastai.schema import *
from hp_fastai.bundle import *
from hp_fastai.learner import *
from hp_fastai.recipes.proposals import *
from hp_fastai.recipes.cracks import *
from hp_fastai.recipes.detect import *

warnings.filterwarnings('ignore')
RESULTS = Path(__file__).parent/'results'
TRUNK = 'weights/mobilenetv2_035_imagenet_trunk.pth'
ARCH = dict(arch='mobilenetv2_035', pad_type='same')
SIZE = 64                                # pixels of a side
SEARCH = dict(max_side=256)              # concrete photos have 512 pixels, masonry 224
SAMPLE = dict(per_bin=2, max_cracks=6)   # crops of a photo: 2 in each of 5 bins of IoU without crack, 6 with and the true boxes (original: 10 in each bin, all cracks)
FIT = dict(epochs=8, patience=3)         # at most; the original's patience
IOUS = (.5, .35)

class Results:
    "Long table of all runs, one row a number, and the steps that are in it"
    def __init__(self, csv, seed): self.csv,self.seed = csv,seed
    @property
    def table(self): return pd.read_csv(self.csv) if self.csv.exists() else pd.DataFrame(columns=['step', 'run', 'seed', 'metric', 'value', 'seconds'])
    def has(self, step, run): return bool(((self.table.step==step) & (self.table.run==run) & (self.table.seed==self.seed)).any())
    def add(self, step, run, scores, seconds):
        rows = pd.DataFrame([(step, run, self.seed, k, round(float(v), 4), round(seconds)) for k,v in scores.items()], columns=self.table.columns)
        pd.concat([o for o in (self.table, rows) if len(o)]).to_csv(self.csv, index=False)
        print(step, run, {k: round(float(v), 3) for k,v in scores.items()}, f'{seconds:.0f} s', flush=True)

def real_truths(data):
    "Photo -> true boxes, from the masks; photos are named from the data folder"
    df = pd.read_csv(data/'labels.csv')
    return mask_file_boxes(dict(zip(df.file, df['mask'])), data, data)

# ---- proposals ----

def score_proposals(res, cache, truths):
    "Recall of the search on all photos, by source"
    for source,name in (('masonry', 'masonry'), ('crackconcrete', 'concrete')):
        if res.has('proposals', name): continue
        own,start = {k: v for k,v in truths.items() if Path(k).name.startswith(source)},time.perf_counter()
        cache.fill(own, 1, progress=False)
        table = proposal_recall(cache, own)
        res.add('proposals', name, dict(photos=len(own), cracks=table.n_true[0], per_photo=table.per_photo[0], **{f'recall_{t:g}': r for t,r in zip(table.thresh, table.recall)}), time.perf_counter()-start)

# ---- the classifier ----

def crop_tables(data, truths, work, seed):
    "IoU that makes a crack -> crops; the same photos in the same parts"
    make = lambda thresh, parts=None: crack_table(data, truths, work, thresh, **SAMPLE, search=SEARCH, size=SIZE, parts=parts, seed=seed, n_workers=0, progress=False)
    tables = {.5: make(.5)}
    parts = tables[.5].groupby('file_name_original').split.first().to_dict()
    return {**tables, .35: make(.35, parts)},parts

def score_variants(res, tables, work, trunk, seed):
    "Each variant, on the test part"
    for v in CRACK_VARIANTS:
        if res.has('classifier', v.name) and (work/v.name/'model.safetensors').exists(): continue
        dls_kw = dict(size=SIZE, cache=work/'cache', num_workers=0)
        _,scores = run_variant(v, tables[v.thresh], work, work/v.name, dls_kw=dls_kw, seed=seed, progress=False, pretrained=False, weights=trunk, **ARCH, **FIT)
        h = pd.read_csv(work/v.name/'history.csv').iloc[scores['best_epoch']]
        gap = dict(loss_gap=h.valid_loss-h.train_loss, accuracy_gap=h.train_crack_accuracy-h.valid_crack_accuracy)
        if not res.has('classifier', v.name): res.add('classifier', v.name, {**{k: o for k,o in scores.items() if k!='seconds'}, **gap}, scores['seconds'])

# ---- the second stage ----

def untrained_bundle(tables, work, trunk, seed):
    "The ImageNet trunk as it is, with a head that has learned nothing"
    file = work/'trunk/model.safetensors'
    if not file.exists():
        learn = crack_learner(crack_dls(tables[.5], work, size=SIZE, num_workers=0), pretrained=False, weights=trunk, path=work/'trunk', log=None, seed=seed, **ARCH)
        save_bundle(learn, file, scores={})
    return file

def score_detectors(res, cache, truths, parts, files, work):
    "Both stages of each network on the test photos"
    part = {p: {o: t for o,t in truths.items() if parts.get(o)==p} for p in ('train', 'valid', 'test')}
    for name,file in files.items():
        if res.has('detector', name): continue
        start = time.perf_counter()
        regions = RegionFeatures(work/'features', load_bundle(file), cache, crop_size=SIZE)
        detector,log = fit_detector(regions, part['train'], part['valid'])
        table,_ = score_stages(detector, regions, part['test'])
        scores = {f'{o.stage}_{k}': getattr(o, k) for o in table.itertuples() for k in ('ap', 'recall', 'precision')}
        mined = dict(walls_used=log.n_negatives.iloc[-1], false_alarms_first=log.false_alarms.iloc[0], false_alarms_last=log.false_alarms.iloc[-1], rounds=len(log))
        res.add('detector', name, {**scores, **mined, 'cracks': table.n_true[0], 'photos': table.n_photos[0]}, time.perf_counter()-start)

# ---- the readable table ----

def pivot(df, step): return df[df.step==step].pivot_table(index='run', columns='metric', values='value', sort=False)
def markdown(rows, heads): return '\n'.join(['| ' + ' | '.join(heads) + ' |', '|---'*len(heads) + '|', *('| ' + ' | '.join(o) + ' |' for o in rows)])
def seconds_of(df, step): return df[df.step==step].groupby('run', sort=False).seconds.first()

def write_report(csv, command):
    "Write results/cracks.md from the table of all runs"
    df = pd.read_csv(csv)
    took = lambda step: seconds_of(df, step)
    p,c,d = (pivot(df, o) for o in ('proposals', 'classifier', 'detector'))
    out = [(f"# Cracks\n\n240 photos of masonry and 30 of concrete, true boxes derived from their masks. `mobilenetv2_035` from its ImageNet trunk, all layers trained, at {SIZE} pixels; split by photo, 70/15/15; one seed. "
            f"Crops of a photo: at most {SAMPLE['per_bin']} without crack in each of five bins of IoU, and {SAMPLE['max_cracks']} with. Scores are of the test photos; the original's are of its own, other photos, with another network. "
            f"Seconds: on one busy core.\n\nMade by\n\n    {command}\n")]
    if len(p): out.append('## Proposals\n\nSelective search, fast: share of the true boxes that some proposal fits.\n\n' + markdown(
        [(o.Index, f'{o.photos:.0f}', f'{o.cracks:.0f}', f'{o.per_photo:.0f}', *(f'{v:.2f}' for v in (p.loc[o.Index, 'recall_0.35'], p.loc[o.Index, 'recall_0.5'], p.loc[o.Index, 'recall_0.7'])), f'{took("proposals")[o.Index]}') for o in p.itertuples()],
        ['photos of', 'photos', 'cracks', 'proposals a photo', 'recall at IoU 0.35', '0.5', '0.7', 'seconds']))
    if len(c): out.append('\n## Crack or wall\n\nThe class `crack` on the test crops, at 0.5 and at the threshold that found 90 % of the cracks of the validation part. Gap: loss of validation minus training in the best epoch.\n\n' + markdown(
        [(n, f'{r.precision:.2f} / {r.recall:.2f}', '{:.2f} / {:.2f}'.format(*PUBLISHED_CRACKS[n]), f'{r.thresh_precision:.2f} / {r.thresh_recall:.2f}', f'{r.ap:.2f}', f'{r.accuracy:.2f}', f'{r.n_crack:.0f} of {r.n:.0f}', f'{r.loss_gap:+.2f}', f'{r.best_epoch+1:.0f} of {r.epochs:.0f}', f'{took("classifier")[n]}') for n,r in c.iterrows()],
        ['variant', 'precision / recall', "original's", 'recall first', 'average precision', 'accuracy', 'cracks', 'gap', 'best epoch', 'seconds']))
    if len(d): out.append(f'\n## Boxes on photos\n\nAverage precision at IoU 0.5 (Pascal VOC 2010, all points) on {d.photos.iloc[0]:.0f} test photos with {d.cracks.iloc[0]:.0f} cracks, and recall and precision at the threshold with the best F1 on the validation photos. '
        'SVM: the second stage on the frozen features of the network. Head: the probability of the network itself. `trunk` has seen ImageNet only.\n\n' + markdown(
        [(n, f'{r.svm_ap:.3f}', f'{r.head_ap:.3f}' if n!='trunk' else '-', f'{r.svm_recall:.2f} / {r.svm_precision:.2f}', f'{r.head_recall:.2f} / {r.head_precision:.2f}' if n!='trunk' else '-', f'{r.false_alarms_first:.0f} to {r.false_alarms_last:.0f}', f'{took("detector")[n]}') for n,r in d.iterrows()],
        ['network', 'AP, SVM', 'AP, head', 'recall / precision, SVM', 'recall / precision, head', 'false alarms in training, before and after mining', 'seconds']))
    (RESULTS/'cracks.md').write_text('\n'.join(out)+'\n')

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with cracks and weights')
    args.add_argument('--seed', type=int, default=0)
    args.add_argument('--detect', nargs='*', default=['trunk', 'weighted'], help='networks for the second stage')
    args.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'hp_fastai_cracks', help='folder for proposals, crops, models and features')
    o = args.parse_args()
    res,work,data,trunk = Results(RESULTS/'cracks.csv', o.seed),o.work/str(o.seed),o.data/'cracks',o.data/TRUNK
    work.mkdir(parents=True, exist_ok=True)
    report = lambda: write_report(res.csv, 'python benchmarks/cracks.py')
    truths,cache = real_truths(data),ProposalCache(work/'proposals', data, **SEARCH)
    score_proposals(res, cache, truths); report()
    tables,parts = crop_tables(data, truths, work, o.seed)
    print({t: df.groupby(['split', 'crack']).size().to_dict() for t,df in tables.items()}, flush=True)
    score_variants(res, tables, work, trunk, o.seed); report()
    files = {n: untrained_bundle(tables, work, trunk, o.seed) if n=='trunk' else work/n/'model.safetensors' for n in o.detect}
    score_detectors(res, cache, truths, parts, files, work); report()

if __name__=='__main__': main()
