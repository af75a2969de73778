"""One-vs-rest on real photos of animals: a ResNet, an EfficientNet, the attention CNN and an ImageNet trunk, each beside a softmax model that saw as many pictures.

    python benchmarks/one_vs_rest.py [--data ../shared/data] [--classes 6] [--only trunk resnet ...] [--work FOLDER]

All on the same three folds; pictures that are nearly the same (burst shots, copies) stay in one fold. The peer is a logistic regression on the frozen features of the trunk. What is trained lies
in --work, so that a stopped run goes on; results are appended network by network to `results/one_vs_rest.csv`, and `results/one_vs_rest.md` is the readable table. No photo is written to `results`."""
import argparse, tempfile, time, warnings
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from hp_fastai.schema import *
from hp_fastai.data import *
from hp_fastai.model import *
from hp_fastai.interpret import *
from hp_fastai.recipes.one_vs_rest import *

warnings.filterwarnings('ignore')
RESULTS = Path(__file__).parent/'results'
CSV = RESULTS/'one_vs_rest.csv'
TRUNK = 'weights/mobilenetv2_035_imagenet_trunk.pth'

def networks(data):
    "Name -> settings. Small pictures and networks, sized for one core; the first has the published rate, batch and epochs"
    trunk = dict(arch='mobilenetv2_035', weights=str(data/TRUNK), arch_args=dict(pad_type='same'), size=128)
    scratch = dict(pretrained=False, size=64, epochs=6, bs=16, lr=1e-3)
    return {'trunk, as published': trunk, 'trunk, rate 1e-3': dict(trunk, bs=16, lr=1e-3),
            'ResNet': dict(scratch, arch='resnet10t'), 'EfficientNet': dict(scratch, arch='test_efficientnet'),
            'attention CNN': dict(scratch, arch='attention_cnn', arch_args=dict(widths=(16,32,64,128,128), attn_dim=128))}

TEXTS = {'trunk, as published': 'mobilenetv2_035 from its ImageNet trunk, 128 px, 3 epochs, batch 32, AdamW 1e-4', 'trunk, rate 1e-3': 'the same, batch 16, AdamW 1e-3',
         'ResNet': 'resnet10t from scratch, 64 px, 6 epochs, batch 16, AdamW 1e-3', 'EfficientNet': "test_efficientnet (timm's smallest) from scratch, as the ResNet",
         'attention CNN': 'attention_cnn of a quarter of the published widths from scratch, as the ResNet', 'logistic': 'logistic regression on the frozen features of the trunk, 128 px, C=0.01, same folds'}

# ---- the table ----

def near_duplicates(files, least=.95):
    "Group number of each picture; those whose 16 x 16 grey thumbnails correlate more than `least` share one"
    x = np.stack([np.asarray(Image.open(o).convert('L').resize((16, 16)), float).ravel() for o in files])
    x -= x.mean(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)+1e-9
    return connected_components(x@x.T>least)[1]

def animals(data, n_classes):
    "Photos of the first classes in alphabetical order, with a group of near-duplicates"
    df = read_table(data/'animals/labels.csv').rename(columns={'file': 'file_name', 'label': 'animal'})
    df = df[df.animal.isin(sorted(df.animal.unique())[:n_classes])].reset_index(drop=True)
    return df.assign(group=near_duplicates([data/'animals'/o for o in df.file_name]))

# ---- runs ----

def logistic(run, trunk):
    "Held-out scores of a logistic regression on the frozen, pooled features of the trunk"
    start = time.perf_counter()
    model = PropertyModel(Schema([run.prop]), 'mobilenetv2_035', weights=trunk, pad_type='same').eval()
    x,fold,prep = [],run.df.fold.to_numpy(),Preprocessing.of(model.backbone, size=128)
    with torch.no_grad():
        for i in range(0, len(run.df), 32): x.append(model.forward_features(torch.stack([prep(run.path/o) for o in run.df.file_name[i:i+32]])).mean((2,3)))
    x,y,probs = torch.cat(x).numpy(),run.prop.encode(run.df.animal).argmax(1),np.zeros((len(run.df), len(run.classes)))
    for f in run.folds: probs[fold==f] = make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=1000)).fit(x[fold!=f], y[fold!=f]).predict_proba(x[fold==f])
    interp = PropertyInterpretation(Schema([run.prop]), [probs], run.df)
    score = interp.scores(which=('accuracy', 'f1_macro')).iloc[0]
    return pd.DataFrame([dict(model='logistic', accuracy=score.accuracy, f1_macro=score.f1_macro, log_loss=interp.losses.mean().item(), seen=0, seconds=time.perf_counter()-start, models=len(run.folds))])

def add_rows(network, combined, folds=None):
    "Append a network's scores to the CSV: network, model, class, fold, metric, value"
    parts = [combined.melt(['model'], var_name='metric').assign(**{'class': '', 'fold': ''})]
    if folds is not None: parts.append(folds.melt(['class', 'fold'], var_name='metric').assign(model='yes or no'))
    rows = pd.concat(parts).assign(network=network)[['network', 'model', 'class', 'fold', 'metric', 'value']]
    rows['value'] = rows.value.astype(float).round(4)
    rows.to_csv(CSV, mode='a', header=not CSV.exists(), index=False)

def is_done(network): return CSV.exists() and (pd.read_csv(CSV).network==network).any()

# ---- the readable table ----

def _combined_table(df):
    "One line per network and model"
    wide = df[df['class'].isna()].pivot_table(index=['network', 'model'], columns='metric', values='value', sort=False).reset_index()
    lines = ['| network | model | accuracy | macro F1 | log loss | pictures seen | seconds | models |', '|---'*8 + '|']
    for o in wide.itertuples(): lines.append(f'| {o.network} | {o.model} | {o.accuracy:.3f} | {o.f1_macro:.3f} | {o.log_loss:.3f} | {o.seen:,.0f} | {o.seconds:.0f} | {o.models:.0f} |')
    return '\n'.join(lines)

def _class_table(df, metric):
    "One line per class, one column per network: mean of the folds and their range"
    part = df[df['class'].notna() & (df.metric==metric)]
    lines = [f'| {metric} | ' + ' | '.join(part.network.unique()) + ' |', '|---'*(part.network.nunique()+1) + '|']
    for c,rows in part.groupby('class'):
        cells = [rows[rows.network==n].value for n in part.network.unique()]
        lines.append(f'| {c} | ' + ' | '.join(f'{o.mean():.3f} ({o.min():.2f} to {o.max():.2f})' for o in cells) + ' |')
    return '\n'.join(lines)

def _verdict(df):
    "One-vs-rest against softmax, and both against the frozen trunk, in one paragraph"
    acc = df[df['class'].isna() & (df.metric=='accuracy')].set_index(['network', 'model']).value
    diffs = {n: acc[n, 'one-vs-rest, calibrated']-acc[n, 'softmax'] for n in TEXTS if (n, 'softmax') in acc.index}
    text = 'Accuracy of one-vs-rest, calibrated, minus that of the softmax model: ' + ', '.join(f'{n} {v:+.3f}' for n,v in diffs.items()) + '.'
    if ('logistic', 'logistic') not in acc.index: return text
    best = acc.drop('logistic').idxmax()
    return text + f" None of them reaches the logistic regression on the frozen trunk ({acc['logistic', 'logistic']:.3f}); the best is {best[0]}, {best[1]} ({acc[best]:.3f})." if acc[best]<acc['logistic', 'logistic'] else text

def write_report(df, n_groups, command):
    "Write results/one_vs_rest.md from the table of all runs"
    scores = pd.read_csv(CSV).sort_values('network', key=lambda o: o.map(list(TEXTS).index), kind='stable')
    counts = ', '.join(f'{c} {n}' for c,n in df.animal.value_counts().sort_index().items())
    majority = scores[scores.metric=='majority'].value.mean()
    head = (f"# One-vs-rest on photos of animals\n\n{len(df)} photos ({counts}) in three stratified folds; {len(df)-n_groups} near-duplicates stay with their likes. Every score is held out: each picture is "
            "answered by models that did not train on it. *raw*: the yes-or-no models' probabilities, divided by their sum; *calibrated*: each class's curve fitted on the other folds first; *softmax*: one model of all "
            "classes, with as many pictures seen. Both kinds keep the weights of the best epoch on the held-out fold, which flatters them a little; the logistic regression does not.\n\n"
            + '\n'.join(f'- {k}: {v}' for k,v in TEXTS.items() if (scores.network==k).any()) + f"\n\nMade by\n\n    {command}\n")
    parts = [head, '## Combined into one answer\n', _combined_table(scores), '\nSeconds: of all trainings of the line on one core that was shared with others.\n', _verdict(scores)+'\n',
             '## Each class against the rest\n', f'Mean of three folds, and their range. The more frequent answer alone would have an accuracy of {majority:.3f}.\n',
             _class_table(scores, 'accuracy'), '', _class_table(scores, 'valid_loss'), '']
    (RESULTS/'one_vs_rest.md').write_text('\n'.join(parts))

def save_pictures(runs):
    "Score pictures without photos"
    if runs: plot_runs(runs, figsize=(9,3.2)).savefig(RESULTS/'one_vs_rest_networks.png', dpi=80)
    for name,run in list(runs.items())[-1:] if 'trunk, rate 1e-3' not in runs else [('trunk', runs['trunk, rate 1e-3'])]:
        run.plot_table().savefig(RESULTS/'one_vs_rest_folds.png', dpi=80)
        run.plot_calibration().savefig(RESULTS/'one_vs_rest_calibration.png', dpi=80)
        run.interpretation().plot_confusion_matrix().savefig(RESULTS/'one_vs_rest_confusion.png', dpi=80)

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with animals and weights')
    args.add_argument('--classes', type=int, default=6, help='how many of the 22 animals')
    args.add_argument('--only', nargs='+', help='names of networks; default: all')
    args.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'hp_fastai_one_vs_rest', help='folder for models and decoded pictures')
    o = args.parse_args()
    df,runs = animals(o.data, o.classes),{}
    for name,settings in networks(o.data).items():
        if o.only and name not in o.only: continue
        run = OneVsRest(df, 'animal', o.data/'animals', o.work/name.replace(' ', '_'), OneVsRestRecipe(**settings), group='group', cache=o.work/'cache', num_workers=0)
        runs[name] = run.fit(progress=False)
        if not is_done(name): add_rows(name, run.compare(), run.table)
        print(name, run.compare().round(3).to_string(index=False), sep='\n', flush=True)
    if runs and not is_done('logistic'): add_rows('logistic', logistic(run, o.data/TRUNK))
    save_pictures(runs)
    write_report(df, df.group.nunique(), 'python benchmarks/one_vs_rest.py')

if __name__=='__main__': main()
