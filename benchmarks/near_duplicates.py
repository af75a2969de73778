"""How many copies `find_near_duplicates` finds among real pictures, and how many pictures it wrongly calls copies.

    python benchmarks/near_duplicates.py FOLDER [FOLDER ...] [--planted 600] [--out benchmarks/results/near_duplicates.md]

Pictures of each folder are saved again in six ways into a temporary folder, and looked for among all of them. Found: share of the planted copies. Pairs that were not
planted are duplicates in the folder itself, or false alarms; their number is given for each step of likeness, to look at by hand (--sheet FILE draws the doubtful ones).
No picture is kept."""
import argparse, io, shutil, tempfile
from pathlib import Path
from time import perf_counter
import numpy as np, pandas as pd
from PIL import Image, ImageEnhance, ImageOps

def shave(img, rng):
    "Up to 8 % off each side"
    (w,h),(l,t,r,b) = img.size,rng.uniform(0, .08, 4)
    return img.crop((int(l*w), int(t*h), int(w-r*w), int(h-b*h)))

def smaller(img, rng):
    f = rng.uniform(.4, .8)
    return img.resize((max(int(img.width*f), 8), max(int(img.height*f), 8)))

def brighter(img, rng): return ImageEnhance.Brightness(img).enhance(rng.choice([rng.uniform(.6, .8), rng.uniform(1.2, 1.4)]))

WAYS = dict(recompressed=lambda o,rng: o, resized=smaller, brightness=brighter, cropped=shave, mirrored=lambda o,rng: ImageOps.mirror(o),
            all_of_it=lambda o,rng: brighter(ImageOps.mirror(shave(smaller(o, rng), rng)), rng))

def measure(folder, n_planted, seed=42, sheet=None):
    "One row of the table for the pictures of `folder`"
    from hp_fastai.files import list_pictures
    from hp_fastai.views import find_near_duplicates
    rng,files = np.random.default_rng(seed),[Path(folder)/o for o in list_pictures(folder)]
    planted = [(int(i), list(WAYS)[k%len(WAYS)]) for k,i in enumerate(rng.choice(len(files), min(n_planted, len(files)), replace=False))]
    with tempfile.TemporaryDirectory() as tmp:
        for k,(i,way) in enumerate(planted):
            img = ImageOps.exif_transpose(Image.open(files[i])).convert('RGB')
            WAYS[way](img, rng).save(f'{tmp}/{k}.jpg', quality=int(rng.integers(30, 80)))
        start = perf_counter()
        found = find_near_duplicates([*files, *(f'{tmp}/{k}.jpg' for k in range(len(planted)))], path='/')
        seconds = perf_counter()-start
    pairs,n = set(zip(found.a, found.b)),len(files)
    hit = pd.Series([(i, n+k) in pairs for k,(i,_) in enumerate(planted)])
    own = found[found.b<n]
    steps = {f'unplanted pairs {lo:.2f}-{hi:.2f}': int(((own.likeness>=lo) & (own.likeness<hi)).sum()) for lo,hi in ((.88,.91),(.91,.94),(.94,.97),(.97,1.01))}
    if sheet: draw(own.sort_values('likeness')[:24], files, sheet)
    by_way = hit.groupby([way for _,way in planted]).mean().round(4).to_dict()
    return dict(folder=Path(folder).name, pictures=n, planted=len(planted), found=round(hit.mean(), 4), **by_way, **steps, seconds=round(seconds, 1))

def draw(pairs, files, sheet):
    "The least alike pairs, one above the other"
    canvas = Image.new('RGB', (100*len(pairs), 200))
    for k,o in enumerate(pairs.itertuples()):
        for row,i in enumerate((o.a, o.b)): canvas.paste(Image.open(files[i]).convert('RGB').resize((100, 100)), (100*k, 100*row))
    canvas.save(sheet)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folders', nargs='+'); p.add_argument('--planted', type=int, default=600); p.add_argument('--sheet')
    p.add_argument('--out', default='benchmarks/results/near_duplicates.md')
    a = p.parse_args()
    table = pd.DataFrame([measure(o, a.planted, sheet=a.sheet) for o in a.folders]).set_index('folder').T
    print(table.to_string())
    lines = ['| | '+' | '.join(table.columns)+' |', '|---'*(table.shape[1]+1)+'|']
    lines += [f'| {k} | '+' | '.join(f'{v:g}' for v in row)+' |' for k,row in zip(table.index, table.to_numpy())]
    head = f'# Near-duplicates among real pictures\n\n`python benchmarks/near_duplicates.py FOLDER...`, {a.planted} planted copies at most, seed 42.\n'
    Path(a.out).write_text('\n'.join([head, *lines, '']))
