"""Three sets of real photos through the public API: fine-tuned from an ImageNet trunk, trained from scratch, and a logistic regression beside them.

    python benchmarks/real_photos.py [--data ../shared/data] [--only facades street_coco houses] [--seeds 2] [--work FOLDER]

Every model of a seed gets the same split, and only the test part is scored. `mirror` is the fine-tuned model whose answers to a picture and to its mirror image are averaged. The recipes of the
facades and of the street were chosen on seeds 0 to 2; what is reported are the seeds 3 and up, whose test parts nobody looked at while choosing. The logistic regression sees the frozen features of the same trunk, pooled, from
pictures of the same size (facades: larger ones); its C (and its class weights) are chosen on the validation part. Results are written run by run to `results/real_photos.csv`, and
those already there are not made again; `results/real_photos.md` is the readable table. No photo is written to `results`."""
import argparse, tempfile, time, warnings
from dataclasses import dataclass, field
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from hp_fastai.schema import *
from hp_fastai.annotations import *
from hp_fastai.clip import *
from hp_fastai.split import *
from hp_fastai.data import *
from hp_fastai.model import *
from hp_fastai.loss import *
from hp_fastai.metrics import *
from hp_fastai.learner import *
from hp_fastai.interpret import *
from hp_fastai.bundle import *
from hp_fastai.predict import *

warnings.filterwarnings('ignore')
ARCH = dict(arch='mobilenetv2_035', pad_type='same')
TRUNK = 'weights/mobilenetv2_035_imagenet_trunk.pth'
RESULTS = Path(__file__).parent/'results'
MODELS = {'trunk': 'fine-tuned', 'mirror': 'with its mirror image', 'scratch': 'from scratch', 'logistic': 'logistic regression', 'majority': 'most common class'}

# ---- the three tables: (table with `file_name` and `split`, schema, folder of the crops) ----

@dataclass
class Task:
    "A table with its `split`, its schema, the folder of its pictures, and how to train on it"
    df: pd.DataFrame
    schema: Schema
    path: Path
    recipe: 'Recipe'
    ann_json: Path = None # boxes, if the crops were clipped from photos
    img_dir: Path = None  # those photos
    buffer: int = 0       # pixels around each box

@dataclass
class Recipe:
    "How to train, in fastai's words"
    size: int = 192          # pixels of a side
    bs: int = 16             # small: 500 pictures give few batches an epoch
    frozen: int = 2          # epochs of the heads alone, soon as good as a logistic regression ...
    head_lr: float = 1e-2    # ... at this rate
    epochs: int = 12         # epochs after that
    lr: float = 1e-3         # of the heads and the last stage
    lr_div: float = 4.       # the first trained group learns so much slower
    freeze_to: int = 3       # parameter groups that keep what ImageNet taught them: stem and two stages, edges and colours. Half the time; 0: none
    drop_rate: float = .2
    drop_path_rate: float = .05
    wd: float = .05
    average: float = .97     # share of the old weights in their running average after each batch
    weight_power: float = 0. # class weights: inverse frequency to this power; 0: none
    property_weights: dict = None
    augment: dict = field(default_factory=dict) # arguments of `property_augments`
    logistic_size: int = None # pixels for the logistic regression; None: `size`

def facades_task(data, work, seed):
    "Materials of a facade (several), its city, and whether there is a facade at all"
    df = read_table(data/'facades/labels.csv').rename(columns={'file': 'file_name'})
    df = df.assign(material=df.material.fillna('none'), no_facade=df.no_facade.map({0: 'no', 1: 'yes'}))   # here an empty cell means none of them
    schema = Schema.infer(df, ['material', 'city', 'no_facade'])
    recipe = Recipe(freeze_to=0, lr=1.5e-3, lr_div=6., average=.98, augment=dict(min_scale=.7, max_rotate=5., max_warp=0., lighting=.2), property_weights=dict(material=3., city=1., no_facade=1.),
                    logistic_size=224)   # the size that the trunk was trained with
    return Task(split_table(df, schema, (.7, .1, .2), seed=seed), schema, data/'facades', recipe)

def houses_task(data, work, seed):
    "Which room, and in which quarter of the training part's prices the house is; one house's four photos stay together"
    df = read_table(data/'houses/labels.csv').rename(columns={'file': 'file_name'})
    df = split_table(df, Schema.infer(df, ['room']), (.7, .1, .2), group='house', seed=seed)
    bands = ['lowest', 'lower', 'higher', 'highest']
    edges = df[df.split=='train'].drop_duplicates('house').price.quantile([.25, .5, .75]).to_numpy()
    df = df.assign(price=[bands[i] for i in np.searchsorted(edges, df.price)])
    schema = Schema([*Schema.infer(df, ['room']), Property('price', bands, 'ordinal')])
    recipe = Recipe(size=128, bs=32, frozen=1, epochs=6, augment=dict(max_rotate=5., max_warp=0., lighting=.1))
    return Task(df, schema, data/'houses', recipe)

def street_task(data, work, seed, buffer=16):
    "Boxes of street photos, clipped with 16 pixels around them (most are windows, 50 x 70 pixels), by category; one scene's photos stay together"
    img_dir,ann_json = data/'street_coco/photos',data/'street_coco/annotations.json'
    clip = clip_coco(img_dir, ann_json, 'street', work/'crops', buffer=buffer, labels=dict(label=CATEGORY), progress=False)
    print(clip); print(clip.reasons)
    df = merge_sides([clip.table])
    df['scene'] = df.file_name_original.str.split('/').str[0]
    schema = Schema.infer(df, ['label'])
    recipe = Recipe(size=96, bs=32, frozen=1, epochs=8, lr=2e-3, freeze_to=0, average=.99, weight_power=.5, augment=dict(max_rotate=5., max_warp=0., lighting=.2))
    return Task(split_table(df, schema, (.7, .1, .2), group='scene', seed=seed), schema, work/'crops', recipe, ann_json, img_dir, buffer)

TASKS = dict(facades=facades_task, street_coco=street_task, houses=houses_task)
FIRST_SEED = dict(facades=3, street_coco=3, houses=0)   # of the reported splits

# ---- ours ----

def train(task, work, seed, weights):
    "Fine-tuned learner (`weights`: the trunk), or one from scratch with as much computing (None: nothing is frozen, an epoch costs twice), and the seconds it took"
    r = task.recipe
    dls = PropertyDataLoaders.from_df(task.df, task.schema, task.path, size=r.size, bs=r.bs, batch_tfms=property_augments(**r.augment), cache=work/'cache', num_workers=0, seed=seed)
    class_weights = {k: v**r.weight_power for k,v in dls.class_weights().items()} if r.weight_power else None
    learn = property_learner(dls, **ARCH, pretrained=False, weights=weights, loss_func=PropertyLoss(task.schema, class_weights, r.property_weights),
                             metrics=[], drop_rate=r.drop_rate, drop_path_rate=r.drop_path_rate, wd=r.wd, seed=seed, log=None)
    learn.model.to(memory_format=torch.channels_last)   # the CPU convolves 1.6 times as fast
    average,start = AverageWeights(r.average, warmup=False),time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if weights is None: learn.fit_one_cycle((r.frozen+r.epochs+1)//2, r.lr, cbs=average)
        else:
            learn.fit_one_cycle(r.frozen, r.head_lr, pct_start=.3)
            learn.freeze_to(r.freeze_to)
            learn.fit_one_cycle(r.epochs, slice(r.lr/r.lr_div, r.lr), pct_start=.3, div=5, cbs=average)
    return learn,time.perf_counter()-start

# ---- what it is compared with ----

def trunk_features(task, trunk, bs=64):
    "Pooled features of the frozen trunk `(rows, 1280)`, of the same pictures"
    model,res = PropertyModel(task.schema, **ARCH, weights=trunk).eval().to(memory_format=torch.channels_last),[]
    files = [task.path/o for o in task.df.file_name]
    prep = Preprocessing.of(model.backbone, size=task.recipe.logistic_size or task.recipe.size)
    with torch.no_grad():
        for i in range(0, len(files), bs):
            xb = torch.stack([prep(o) for o in files[i:i+bs]])
            res.append(model.forward_features(xb).mean((2, 3)))
    return torch.cat(res).numpy()

def fit_logistic(x, y, C, balanced):
    "Scaler and logistic regression; None where all labels are the same"
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000, class_weight='balanced' if balanced else None))
    return model.fit(x, y) if len(np.unique(y))>1 else None

def logistic_probs(prop, x, targs, train, C, balanced):
    "Probabilities `(rows, n_classes)`: one regression per label of a multi property, one for all classes otherwise"
    res = np.zeros_like(targs)
    if not prop.is_multi:
        model = fit_logistic(x[train], targs[train].argmax(1), C, balanced)
        res[:,model.classes_] = model.predict_proba(x)
        return res
    for i in range(prop.n_classes):
        model = fit_logistic(x[train], targs[train,i], C, balanced)
        res[:,i] = targs[train,i].mean() if model is None else model.predict_proba(x)[:,1]
    return res

def choose_logistic(task, x, strengths=None):
    "Best answer of a logistic regression for each property: C and class weights by the validation part, by the very score that is reported"
    strengths = strengths or ((3e-4, 1e-3, 3e-3, 1e-2, 3e-2, .1) if len(x)<2000 else (1e-2, .1, 1.))   # with thousands of crops each takes a minute
    train,valid = (task.df.split.eq(o).to_numpy() for o in ('train', 'valid'))
    res,chosen = [],{}
    for prop,targs in zip(task.schema, task.schema.encode(task.df).values()):
        own = Schema([prop])
        def _score(probs):
            ap = mean_ap(own, (targs[valid],), (probs[valid],)) if prop.is_multi else 0
            return ap + score_table(own, (targs[valid],), (probs[valid],), ['f1_macro']).f1_macro[0]*(1e-3 if prop.is_multi else 1)
        tried = [(C, b, logistic_probs(prop, x, targs, train, C, b)) for C in strengths for b in ((False,) if prop.is_multi else (False, True))]
        C,b,probs = max(tried, key=lambda o: _score(o[2]))
        chosen[prop.name] = f'C={C:g}' + (', balanced' if b else '')
        res.append(probs)
    return tuple(res),chosen

def majority_probs(task):
    "The shares of the training part, for every crop"
    train = task.df.split.eq('train').to_numpy()
    return tuple(np.tile(o[train].mean(0), (len(o), 1)) for o in task.schema.encode(task.df).values())

# ---- scores ----

def label_aps(schema, targs, probs):
    "Average precision of each label of the multi properties, and of the second class of those with two that say yes or no"
    res = {}
    for prop,t,p in zip(schema, targs, probs):
        for i,c in enumerate(prop.classes):
            if prop.is_multi: res[c] = average_precision_score(t[:,i], p[:,i])
            elif prop.classes==('no', 'yes') and c=='yes': res[prop.name] = average_precision_score(t[:,i], p[:,i])
    return res

def mean_ap(schema, targs, probs): return float(np.mean(list(label_aps(schema, targs, probs).values())))

def test_scores(schema, targs, probs):
    "Every score of a test part, by name"
    targs,probs = [np.asarray(o) for o in targs],[np.asarray(o) for o in probs]
    res = {f'{o.property}_{k}': getattr(o, k) for o in score_table(schema, targs, probs, ['f1_macro', 'accuracy', 'kappa']).itertuples() for k in ('f1_macro', 'accuracy', 'kappa')}
    if any(p.is_multi for p in schema): res |= {'mean_ap': mean_ap(schema, targs, probs), **{f'ap_{k}': v for k,v in label_aps(schema, targs, probs).items()}}
    return {k: v for k,v in res.items() if v==v}

# ---- runs ----

def interpret(name, learn, seed):
    "Scores of the test part, and the confusion picture of the last seed"
    with learn.no_bar(): interp = PropertyInterpretation.from_learner(learn, dl=learn.dls.test_dl(with_labels=True, num_workers=0))
    if seed is not None and name!='houses':
        fig = interp.plot_confusion_matrix(figsize=(8,7.4) if len(learn.schema)==1 else (9.5,6))
        fig.savefig(RESULTS/f'real_{name}_confusion.png', dpi=80)
    return interp

def predict_again(task, learn, work):
    "Accuracy of `predict_photos` on the boxes of the test part: bundle, photos and COCO boxes, with no crop in between"
    bundle = save_bundle(learn, work/'street.safetensors')
    test = task.df[task.df.split=='test']
    boxes = test.assign(image_name=test.file_name_original)[['image_name', 'box', 'label']].reset_index(drop=True)
    table = predict_photos(bundle, task.img_dir, boxes[['image_name', 'box']], buffer=task.buffer, num_workers=0, progress=False).table
    truth = boxes.sort_values('image_name', key=lambda o: pd.factorize(o)[0], kind='stable').label.to_numpy()
    return dict(predict_photos_rows=len(table), predict_photos_accuracy=float((table.label.to_numpy()==truth).mean()))

def mirror_probs(learn):
    "Probabilities of the test part: mean of each picture and its mirror image"
    with learn.no_bar(), learn.no_logging(): probs,_ = learn.tta(dl=learn.dls.test_dl(with_labels=True, num_workers=0), n=1, batch_tfms=[Flip(p=1.)], beta=.5)
    return probs if isinstance(probs, tuple) else (probs,)

def run_model(name, task, model, trunk, work, seed):
    "Model -> scores, and the seconds of one run"
    test,start = task.df.split.eq('test').to_numpy(),time.perf_counter()
    targs = [o[test] for o in task.schema.encode(task.df).values()]
    if model in ('logistic', 'majority'):
        probs,chosen = choose_logistic(task, trunk_features(task, trunk)) if model=='logistic' else (majority_probs(task),'')
        print(name, seed, model, chosen)
        return {model: test_scores(task.schema, targs, [o[test] for o in probs])},time.perf_counter()-start
    learn,took = train(task, work, seed, trunk if model=='trunk' else None)
    interp = interpret(name, learn, seed if model=='trunk' else None)
    res = {model: test_scores(task.schema, interp.targs, interp.probs)}
    if model=='trunk':
        if task.ann_json: res[model] |= predict_again(task, learn, work)
        res['mirror'] = test_scores(task.schema, interp.targs, mirror_probs(learn))
    return res,took

def add_rows(csv, name, model, seed, scores, seconds):
    "Append one run to the table"
    rows = pd.DataFrame([(name, model, seed, k, round(float(v), 4), round(seconds)) for k,v in scores.items()], columns=['dataset', 'model', 'seed', 'metric', 'value', 'seconds'])
    old = [pd.read_csv(csv)] if csv.exists() else []
    pd.concat([*old, rows]).to_csv(csv, index=False)

def is_done(csv, name, model, seed):
    "Is this run in the table?"
    if not csv.exists(): return False
    df = pd.read_csv(csv)
    return bool(((df.dataset==name) & (df.model==model) & (df.seed==seed)).any())

# ---- the readable table ----

def _cell(values):
    "Mean of the seeds, with their spread (standard deviation) where there are several"
    if not len(values): return ''
    return f'{values.mean():.3f}' + (f' ± {values.std(ddof=1):.3f}' if len(values)>1 else '')

def _table(df):
    "One line per metric, one column per model"
    n = {m: df[df.model==m].seed.nunique() for m in MODELS}
    heads = [f"{MODELS[m]} ({n[m]} seed{'s' if n[m]!=1 else ''})" for m in MODELS]
    lines = ['| score on the test part | ' + ' | '.join(heads) + ' |', '|---'*(len(heads)+1) + '|']
    for k in df.metric.drop_duplicates():
        lines.append(f'| {k} | ' + ' | '.join(_cell(df[(df.metric==k) & (df.model==m)].value) for m in MODELS) + ' |')
    took = ' | '.join(_cell_seconds(df[df.model==m].drop_duplicates('seed').seconds) for m in MODELS)
    return '\n'.join([*lines, f'| seconds a run | {took} |'])

def _cell_seconds(values): return f'{values.mean():.0f}' if len(values) else ''

TEXTS = dict(
    facades="681 facades in New York and Zurich: `material` (multi: any of six), `city`, `no_facade`. Split 70/10/20 at random, stratified. `mean_ap`: mean average precision over the "
            "seven labels (six materials and no_facade).",
    street_coco="Boxes of 199 street photos (of 220 in the json; 21 are missing), clipped with 16 pixels around them, by category. Split 70/10/20 by scene. `predict_photos`: the saved "
                "bundle on the photos of the test part and their boxes.",
    houses="535 houses, four photos each: `room`, and `price` in four bands (quartiles of the training part), guessed from one photo of 128 pixels. Split 70/10/20 by house.")

def write_report(csv, command):
    "Write results/real_photos.md from the table of all runs"
    df = pd.read_csv(csv)
    parts = [f'## {name}\n\n{text}\n\n{_table(df[df.dataset==name])}\n' for name,text in TEXTS.items() if (df.dataset==name).any()]
    wins = _wins(df)
    head = ("# Real photos\n\n`mobilenetv2_035` through the public API: fine-tuned from its ImageNet trunk (`weights=FILE`), from scratch with as much computing (half the epochs, as nothing is frozen), and a logistic regression on the "
            "frozen trunk's features. All of a seed on the same split and size (facades: the regression gets 224 pixels, the trunk's own size; ours 192, for speed); C chosen on the validation part. *With its mirror image*: the fine-tuned model's answers to a picture and to its mirror image, averaged. Mean ± standard deviation over the seeds, each with a split of its own; the recipes of facades and street were chosen on other seeds. "
            "Seconds: of the training alone, or of features and choice of C, on a shared core.\n\nMade by\n\n"
            f"    {command}\n")
    (RESULTS/'real_photos.md').write_text('\n'.join([head, *([wins] if wins else []), *parts]))

def _wins(df):
    "Seed by seed: fine-tuned beside the logistic regression"
    res = []
    for name,metric,title in (('facades', 'mean_ap', 'mean average precision'), ('street_coco', 'label_f1_macro', 'macro F1')):
        o = df[(df.dataset==name) & (df.metric==metric)].pivot_table(index='seed', columns='model', values='value')
        if not {'trunk', 'logistic'} <= set(o): continue
        o = o.dropna(subset=['trunk', 'logistic'])
        res.append(f'{name}, {title}, fine-tuned against logistic regression on the same split: ' + ', '.join(f'seed {i} {a:.3f} against {b:.3f}' for i,a,b in zip(o.index, o.trunk, o.logistic)) + '.\n')
    return '\n'.join(res)

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with facades, street_coco, houses and weights')
    args.add_argument('--only', nargs='+', choices=list(TASKS), default=list(TASKS))
    args.add_argument('--models', nargs='+', choices=list(MODELS), default=list(MODELS))
    args.add_argument('--seeds', type=int, default=2, help='splits of the facades and the street; the houses, and the runs from scratch, get one')
    args.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'hp_fastai_real_photos', help='folder for crops and cache')
    o = args.parse_args()
    csv = RESULTS/'real_photos.csv'
    for name in o.only:
        work = o.work/name
        first,n = FIRST_SEED[name],o.seeds if name!='houses' else 1
        for seed,model in [(s, m) for s in range(first, first+n) for m in o.models if (s==first or m!='scratch') and m!='mirror']:
            if is_done(csv, name, model, seed): continue
            set_seed(seed)
            scores,took = run_model(name, TASKS[name](o.data, work, seed), model, o.data/TRUNK, work, seed)
            for m,res in scores.items():
                print(name, seed, m, {k: round(float(v), 3) for k,v in res.items()}, f'{took:.0f} s', flush=True)
                add_rows(csv, name, m, seed, res, took)
            write_report(csv, 'python benchmarks/real_photos.py')

if __name__=='__main__': main()
