"""The aerial recipe: the published mark on a rendered scene of the published size, real aerial pictures, settings side by side, and speed.

    python benchmarks/aerial.py [--data ../shared/data] [--only overfit aerial aerial_tiles grid speed] [--epochs 36] [--seed 0]

`overfit` trains the published network with the published settings on one image and scores it on that image, as the published mark was made; only the epochs are fewer. `aerial` trains on the
pictures of one `tile` (group) and tests on those of the other, in both directions. `aerial_tiles` trains on the tiles that are called train and tests on those that are called test. A
gradient boosting of scikit-learn on colours and local means stands beside the networks: what can be known without learning shapes. Results are written run by run to `results/aerial.csv`, and those already there are
not made again; `results/aerial.md` is the readable table. No picture is written to `results`."""
import argparse, json, tempfile, time, tracemalloc, warnings
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from scipy.ndimage import uniform_filter
from sklearn.ensemble import HistGradientBoostingClassifier
from hp_fastai.recipes.aerial import *
from hp_fastai.recipes.aerial_scene import *

warnings.filterwarnings('ignore')
RESULTS = Path(__file__).parent/'results'
TRUNK = 'weights/mobilenetv2_035_imagenet_trunk.pth'
PUBLISHED = dict(precision=.7680, recall=.9356, f1=.8435, accuracy=.9755)   # overfitting one image of 2022 x 1608 pixels

# ---- the pictures: part -> (train, valid, test), lists of AerialImage ----

def read_table(folder):
    "Table of pictures and masks, and the pictures read"
    df = pd.read_csv(folder/'labels.csv')
    return df,[read_aerial(folder/o.file, folder/o.mask, inverted=False) for o in df.itertuples()]

def aerial_parts(data, seed):
    "Both directions: train on the pictures of one tile (one of them, picked by the seed, to validate on), test on those of the other"
    df,images = read_table(data/'aerial')
    for test in sorted(df.tile.unique()):
        ours = [o for o,t in zip(images, df.tile) if t!=test]
        i = np.random.default_rng(seed).integers(len(ours))
        yield f'aerial, test on tile {test}',[o for j,o in enumerate(ours) if j!=i],[ours[i]],[o for o,t in zip(images, df.tile) if t==test]

def tiles_parts(data, seed):
    "The names say train or test; a fifth of the train tiles validates"
    df,images = read_table(data/'aerial_tiles')
    is_test = df.file.str.contains('test')
    train = [o for o,t in zip(images, is_test) if not t]
    order = np.random.default_rng(seed).permutation(len(train)); n = len(train)//5
    yield 'aerial_tiles',[train[i] for i in order[n:]],[train[i] for i in order[:n]],[o for o,t in zip(images, is_test) if t]

# ---- the models ----

def recipe(model, part, data, seed):
    "Settings of a model on a part"
    tiny = part=='aerial_tiles'
    fcnn = AerialSettings(stride=None if tiny else 128, normalize='imagenet', bs=8, lr=.02, schedule='one_cycle', epochs=40 if tiny else 4, class_weights=(1,2), seed=seed)
    if model=='fcnn': return fcnn
    return AerialSettings.unet('mobilenetv2_035', weights=str(data/TRUNK), arch_args=dict(pad_type='same'), stride=128, epochs=25 if tiny else 3, freeze_epochs=2 if tiny else 1, seed=seed)

def features(image):
    "Colour, local means and deviation of each pixel `(H*W, 12)`"
    x = image.image.astype(np.float32)/255
    means = [uniform_filter(x, (k,k,1)) for k in (5,15)]
    dev = np.sqrt(np.maximum(uniform_filter(x**2, (7,7,1))-uniform_filter(x, (7,7,1))**2, 0))
    return np.concatenate([x, *means, dev], -1).reshape(-1, 12)

def fit_colours(train, seed, n=10000):
    "Gradient boosting on `n` pixels of each picture"
    rng,xs,ys = np.random.default_rng(seed),[],[]
    for o in train:
        rows = rng.choice(o.mask.size, min(n, o.mask.size//4), replace=False)
        xs.append(features(o)[rows]); ys.append(o.mask.ravel()[rows])
    return HistGradientBoostingClassifier(random_state=seed, max_iter=100).fit(np.concatenate(xs), np.concatenate(ys))

def score(images, probs):
    "Scores over all pixels of all pictures"
    counts = PixelCounts()
    for o,p in zip(images, probs): counts.add((np.asarray(p)>.5).astype(np.uint8), o.mask)
    return house_scores(counts.confusion('surface'))

def run_model(model, name, train, valid, test, data, work, seed):
    "Scores on `test`, seconds of the training, and notes"
    start = time.perf_counter()
    if model=='all house': return score(test, [np.ones(o.mask.shape) for o in test]),0,''
    if model=='colours':
        clf = fit_colours(train, seed); took = time.perf_counter()-start
        return score(test, [clf.predict_proba(features(o))[:,1].reshape(o.mask.shape) for o in test]),took,''
    s = recipe(model, name, data, seed)
    (work/'checkpoint.pt').unlink(missing_ok=True)           # the whole training is timed, not the rest of one that was stopped
    learn = aerial_learner(aerial_dls(train, valid, s), work)
    with learn.no_bar(), learn.no_logging(): fit_aerial(learn)
    took,best = time.perf_counter()-start,load_aerial(work/'best_f1.safetensors')
    print(learn.history.table.round(3).to_string(), flush=True)
    return score(test, [best.predict(o).probs for o in test]),took,f'{s.epochs}+{s.freeze_epochs} epochs'

# ---- the parts of the benchmark ----

def train_overfit(town, s, work):
    "Train on the one image, unless that has been done; minutes and CPU seconds lie beside the models"
    done = work/'done.json'
    if not done.exists():
        (work/'checkpoint.pt').unlink(missing_ok=True)       # the whole training is timed, not the rest of one that was stopped
        learn = aerial_learner(aerial_dls(town, settings=s), work)
        start,cpu = time.perf_counter(),time.process_time()
        with learn.no_bar(), learn.no_logging(): fit_aerial(learn)
        done.write_text(json.dumps(dict(seconds=time.perf_counter()-start, cpu_seconds=time.process_time()-cpu, training_tiles=len(learn.dls.train_ds))))
    return json.loads(done.read_text()),pd.read_csv(work/'history.csv')

def at_recall(town, probs, recall):
    "Scores at the highest threshold with at least that recall"
    thresh = np.quantile(probs[town.mask>0], 1-recall)
    return HouseMap(probs, town).scores(thresh)

OVERFIT = dict(fcnn=dict(), fcnn_faster=dict(bs=8, normalize='imagenet', lr=.02, schedule='one_cycle'))   # the published settings; larger batches, another scale of the input and another rate

def run_overfit(csv, model, epochs, work, seed):
    "The published mark: one image, scored on itself"
    if is_done(csv, 'overfit', model, seed): return
    town = read_aerial(*render_aerial(seed=42), 'rendered scene')
    run,table = train_overfit(town, AerialSettings(epochs=epochs, seed=seed, **OVERFIT[model]), work/model)
    table[['epoch','train_loss','valid_loss',*HOUSE_SCORES]].round(4).to_csv(RESULTS/f'aerial_overfit_{model}.csv', index=False)
    scores = dict(epochs=epochs, training_tiles=run['training_tiles'], cpu_seconds_per_epoch=run['cpu_seconds']/epochs, house_share=town.mask.mean())
    for kind in ('best_f1','last'):
        net = load_aerial(work/model/f'{kind}.safetensors'); whole = net.predict(town)
        scores |= {f'{kind}_tiles_{k}': v for k,v in net.scores.items() if k!='epoch'} | {f'{kind}_{k}': v for k,v in whole.scores().items()}
        scores |= {f'{kind}_recall_{k}': v for k,v in at_recall(town, whole.probs, PUBLISHED['recall']).items()}
    shifted = net.predict(town, margin=24, ramp=8).probs
    scores |= dict(grid_mean_difference=np.abs(shifted-whole.probs).mean(), grid_other_answers=((shifted>.5)!=(whole.probs>.5)).mean())
    add_rows(csv, 'overfit', model, seed, scores, run['seconds'])

def run_grid_part(csv, work, seed):
    "Some settings side by side, on a smaller scene; scored on another one"
    if is_done(csv, 'grid', 'fcnn', seed): return
    train,test = read_aerial(*render_aerial((1011,804), seed=1)),read_aerial(*render_aerial((1011,804), seed=2))
    base = AerialSettings(bs=4, lr=2e-4, epochs=8, seed=seed)
    settings = settings_grid(base, up=['nearest','bilinear','learned'], class_weights=[(1,1),(1,6)])+settings_grid(base, normalize=['mean_colour'])+settings_grid(base, W=[64])+settings_grid(base, lr=[4e-4])
    df = run_grid(train, test, settings, work/'grid')
    start = df.seconds.sum()
    df[['W','up','normalize','bs','lr','class_weights','precision','recall','f1','iou','accuracy','train_loss','seconds']].round(4).to_csv(RESULTS/'aerial_grid.csv', index=False)
    add_rows(csv, 'grid', 'fcnn', seed, dict(runs=len(df), best_f1=df.f1.max()), start)

def clock(f, repeat=3):
    "Least seconds of `repeat` calls"
    res = []
    for _ in range(repeat): start = time.perf_counter(); f(); res.append(time.perf_counter()-start)
    return min(res)

def run_speed(csv, work, seed):
    "Tiles of one image file: opened for every tile, padded and copied, and ours; then the prediction"
    if is_done(csv, 'speed', 'ours', seed): return
    work.mkdir(parents=True, exist_ok=True)
    img,mask = render_aerial(seed=42); img.save(work/'town.png'); img.save(work/'town.jpg', quality=92)
    n = len(tile_table([read_aerial(img)], 128, 64))
    def naive(file):
        for t in tile_starts(img.height, 128, 64):
            for l in tile_starts(img.width, 128, 64): np.asarray(Image.open(file).convert('RGB').crop((l, t, l+128, t+128)))
    def copied(file):
        a = np.asarray(Image.open(file).convert('RGB')); a = np.pad(a, ((0,128),(0,128),(0,0)))
        np.stack([a[t:t+128,l:l+128] for t in tile_starts(img.height, 128, 64) for l in tile_starts(img.width, 128, 64)])
    def ours(file):
        a = read_aerial(file).image
        for t in tile_starts(img.height, 128, 64):
            for l in tile_starts(img.width, 128, 64): read_tile(a, t, l, 128)
    for kind in ('png','jpg'):
        file = work/f'town.{kind}'
        for model,f,repeat in (('a file opened for every tile', naive, 1),('padded, cut and stacked', copied, 3),('ours', ours, 3)):
            took = clock(lambda: f(file), repeat)
            add_rows(csv, 'speed', model, seed, {f'{kind}_seconds': took, f'{kind}_tiles_per_second': n/took}, took)
    a = read_aerial(img).image
    took = clock(lambda: [read_tile(a, t, l, 128) for t in tile_starts(img.height, 128, 64) for l in tile_starts(img.width, 128, 64)])
    add_rows(csv, 'speed', 'ours', seed, dict(decoded_tiles_per_second=n/took, tiles=n), took)
    big = np.pad(a, ((0,128),(0,128),(0,0)))
    took = clock(lambda: [big[t:t+128,l:l+128].copy() for t in tile_starts(img.height, 128, 64) for l in tile_starts(img.width, 128, 64)])
    add_rows(csv, 'speed', 'padded, cut and stacked', seed, dict(decoded_tiles_per_second=n/took), took)
    s = AerialSettings(normalize='mean_colour')
    net = AerialModel(AerialNet(FCNN(), torch.zeros(1,3,1,1), torch.ones(1,3,1,1)).eval(), s, {}, {}, torch.device('cpu'))
    for size in (128,256,512):
        took = clock(lambda: net.predict(img, size=size, margin=16, ramp=16), 1)
        add_rows(csv, 'speed', 'ours', seed, {f'predict_megapixels_per_second_tiles_of_{size}': img.width*img.height/1e6/took}, took)
    for rows in (4000,16000):
        image = np.lib.format.open_memmap(work/'tall.npy', 'w+', np.uint8, (rows,1024,3)); out = np.lib.format.open_memmap(work/'probs.npy', 'w+', np.float32, (rows,1024))
        tracemalloc.start(); net.predict(work/'tall.npy', size=256, margin=16, ramp=16, out=out); peak = tracemalloc.get_traced_memory()[1]/2**20; tracemalloc.stop()
        add_rows(csv, 'speed', 'ours', seed, {f'numpy_peak_mib_{rows}_rows': peak}, 0)

# ---- table of all runs ----

def add_rows(csv, name, model, seed, scores, seconds):
    "Append one run to the table"
    rows = pd.DataFrame([(name, model, seed, k, round(float(v), 4), round(seconds)) for k,v in scores.items()], columns=['dataset', 'model', 'seed', 'metric', 'value', 'seconds'])
    print(name, model, {k: round(float(v), 4) for k,v in scores.items()}, f'{seconds:.0f} s', flush=True)
    pd.concat([*([pd.read_csv(csv)] if csv.exists() else []), rows]).to_csv(csv, index=False)

def is_done(csv, name, model, seed):
    "Is this run in the table?"
    if not csv.exists(): return False
    df = pd.read_csv(csv)
    return bool(((df.dataset==name) & (df.model==model) & (df.seed==seed)).any())

MODELS = {'unet': "fastai's U-Net, mobilenetv2_035 from its ImageNet trunk", 'fcnn': 'published network', 'colours': 'gradient boosting on colours', 'all house': 'house everywhere'}

def _scores_table(df):
    "One line per model"
    lines = ['| model | precision | recall | F1 | IoU | accuracy | seconds of training |', '|---|---|---|---|---|---|---|']
    for m,title in MODELS.items():
        o = df[df.model==m].groupby('metric').value.mean()
        if len(o): lines.append(f"| {title} | " + ' | '.join(f'{o[k]:.4f}' for k in ('precision','recall','f1','iou','accuracy')) + f" | {df[df.model==m].seconds.mean():.0f} |")
    return '\n'.join(lines)

def _overfit_text(df):
    "The mark and ours"
    keys = ('precision','recall','f1','accuracy')
    lines = ['| | precision | recall | F1 | accuracy |', '|---|---|---|---|---|', '| published, another image | ' + ' | '.join(f'{PUBLISHED[k]:.4f}' for k in keys) + ' |']
    notes = []
    for m,title in dict(fcnn='published settings, {} of the 200 epochs', fcnn_faster='batch 8, one cycle up to 0.02, input scaled by ImageNet, {} epochs').items():
        v = df[df.model==m].groupby('metric').value.mean()
        if not len(v): continue
        title = title.format(round(v.epochs))
        for kind,how in (('best_f1_','epoch of the best F1, whole map'),('best_f1_recall_','the same map, threshold moved to the published recall'),('best_f1_tiles_','the same epoch, tiles side by side'),('last_','last epoch, whole map'),('last_recall_','the same map, threshold moved to the published recall')):
            lines.append(f'| {title}: {how} | ' + ' | '.join(f'{v[kind+k]:.4f}' for k in keys) + ' |')
        notes.append(f"{title[0].upper()+title[1:]}: {v.training_tiles:.0f} training tiles, {v.cpu_seconds_per_epoch:.0f} CPU seconds an epoch on one core that others used too. "
                     f"Maps from two grids of tiles differ by {v.grid_mean_difference:.4f} in the mean; {v.grid_other_answers:.2%} of the pixels get another answer.")
    return '\n'.join(lines)+'\n\n'+'\n\n'.join(notes)

def _speed_text(df):
    "Tiles per second, and the rest"
    v = df.pivot_table(index='model', columns='metric', values='value', sort=False)
    lines = ['| way | PNG to tiles, tiles/s | JPEG to tiles, tiles/s | decoded image to tiles, tiles/s |', '|---|---|---|---|']
    for m in v.index: lines.append(f'| {m} | ' + ' | '.join(f'{v.loc[m,k]:,.0f}' if v.loc[m,k]==v.loc[m,k] else '' for k in ('png_tiles_per_second','jpg_tiles_per_second','decoded_tiles_per_second')) + ' |')
    o = v.loc['ours']
    pred = ', '.join(f"{o[k]:.2f} with tiles of {k.split('_')[-1]}" for k in v if k.startswith('predict_'))
    mem = ', '.join(f"{o[k]:.1f} MiB for {k.split('_')[-2]} rows" for k in v if k.startswith('numpy_peak'))
    return '\n'.join(lines)+f'\n\nPrediction of the published network, megapixels a second on one core: {pred}. Peak of numpy\'s memory, 1024 columns, image and map on disk: {mem}.'

def write_report(csv, command):
    "Write results/aerial.md from the table of all runs"
    df = pd.read_csv(csv); parts = []
    if (df.dataset=='overfit').any(): parts.append("## The published mark: fitting one image\n\nTrained and scored on the same rendered image of 2022 x 1608 pixels, with the published settings. This says how well the network can fit, not how well it finds houses elsewhere.\n\n"+_overfit_text(df[df.dataset=='overfit'])+'\n\nScores of every epoch: '+' and '.join(f'`{o}`' for o in (f'aerial_overfit_{m}.csv' for m in OVERFIT) if (RESULTS/o).exists())+'.')
    for name in [o for o in df.dataset.unique() if o.startswith('aerial')]: parts.append(f'## {name}\n\n'+TEXTS[name.split(',')[0]]+'\n\n'+_scores_table(df[df.dataset==name]))
    if (df.dataset=='grid').any(): parts.append('## Settings side by side\n\nTrained 8 epochs on one rendered scene of 1011 x 804 pixels, scored on another.\n\n'+pd.read_csv(RESULTS/'aerial_grid.csv').pipe(_markdown))
    if (df.dataset=='speed').any(): parts.append('## Speed\n\n2022 x 1608 pixels, tiles of 128 with a stride of 64.\n\n'+_speed_text(df[df.dataset=='speed']))
    head = f"# Aerial houses\n\nScores over all pixels of all test pictures, without padding, at a probability of 0.5. One seed. Made by\n\n    {command}\n"
    (RESULTS/'aerial.md').write_text('\n\n'.join([head.rstrip(), *parts])+'\n')

def _markdown(df): return '\n'.join(['| '+' | '.join(df)+' |', '|---'*df.shape[1]+'|', *('| '+' | '.join(map(str, o))+' |' for o in df.itertuples(index=False))])

TEXTS = dict(aerial="Satellite pictures, whole blocks of houses marked. Trained on the pictures of one tile (one kept to validate), tested on those of the other: other places, other share of houses.",
    aerial_tiles="100 tiles of 128 pixels, each house marked; those called train (a fifth of them to validate) and those called test.")

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with aerial, aerial_tiles and weights')
    args.add_argument('--only', nargs='+', choices=['overfit','aerial','aerial_tiles','grid','speed'], default=['overfit','aerial','aerial_tiles','grid','speed'])
    args.add_argument('--models', nargs='+', choices=list(MODELS), default=['all house','colours','fcnn','unet'])
    args.add_argument('--epochs', type=int, default=36, help='of the 200, for the published mark')
    args.add_argument('--seed', type=int, default=0)
    args.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'hp_fastai_aerial', help='folder for models')
    o = args.parse_args()
    csv = RESULTS/'aerial.csv'
    for part in o.only:
        if part=='overfit':
            for model in OVERFIT: run_overfit(csv, model, o.epochs if model=='fcnn' else o.epochs*2//3, o.work/part, o.seed)
        elif part=='grid': run_grid_part(csv, o.work, o.seed)
        elif part=='speed': run_speed(csv, o.work, o.seed)
        else:
            for name,train,valid,test in (aerial_parts if part=='aerial' else tiles_parts)(o.data, o.seed):
                for model in o.models:
                    if is_done(csv, name, model, o.seed): continue
                    scores,took,note = run_model(model, name, train, valid, test, o.data, o.work/name.replace(' ','_')/model, o.seed)
                    print(note); add_rows(csv, name, model, o.seed, scores, took)
        write_report(csv, 'python benchmarks/aerial.py')

if __name__=='__main__': main()
